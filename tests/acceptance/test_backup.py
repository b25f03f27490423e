"""pg_dump while work runs, pg_restore into an empty server: nothing is violated, and what was unfinished goes on."""

import signal
import subprocess
import time
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from orchestrator.cli import main as orchestrator
from orchestrator.embedded import EmbeddedPostgres
from orchestrator.embedded import postgres as embedded_postgres
from shared_state import events
from shared_state.artifacts import ArtifactStore
from shared_state.engine import transaction

from .conftest import MakeHouse
from .house import ENDED, LOOPS, House, diagnostics, fan

WORKERS = ("w1", "w2")
TRANSACTIONS = 3000
LONG_SECONDS = 1.0
"""Still at work when the dump begins, however long submitting takes."""


@pytest.mark.timeout(180)
def test_a_backup_under_load_restored_into_an_empty_server(
    make_house: MakeHouse, postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make_house(*WORKERS)
    grow_old(house.settings.database_url)
    house.apply(diagnostics({"sleep": {"isolation": "thread"}}, name="threads"))
    steady = [submit(house) for _ in range(10)]
    asking = house.submit([{"id": "q", "agent": "ask", "input": {"question": "May I?"}}])
    house.until(lambda: house.task(asking)["state"] == "waiting", "it asks")
    held = ArtifactStore(house.engine, "default", None).put(b"a report")
    done_before = [task_id for task_id in steady if house.wait(task_id)]
    steady += [submit(house, LONG_SECONDS) for _ in range(30)]
    house.until(lambda: any(house.running(task_id) for task_id in steady[10:]), "work runs")
    dump = tmp_path / "backup"
    dumping = subprocess.Popen(program("pg_dump", house.settings.database_url, "--format=custom", f"--file={dump}"))
    late: list[UUID] = []
    while dumping.poll() is None or len(late) < 5:
        late.append(submit(house))
        time.sleep(0.02)
    assert dumping.returncode == 0
    house.wait(late[-1], 60)

    # The disaster: everybody is gone, and the server with them.
    for name in (*WORKERS, LOOPS):
        house.kill(name)
    with EmbeddedPostgres(tmp_path / "restored") as server:
        options = ["--no-owner", "--no-privileges", "--exit-on-error", f"--dbname={server.url}", str(dump)]
        subprocess.run(program("pg_restore", None, *options), check=True)
        monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", server.url)
        assert orchestrator(["migrate"]) == 0
        assert orchestrator(["verify"]) == 0, "as it comes out of the backup"
        assert orchestrator(["restored"]) == 0
        assert orchestrator(["verify"]) == 0
        after = House(tmp_path, server.url, house.settings.broker_url)  # the broker still has messages of what is lost
        with after:
            open_then = [task_id for task_id in steady if after.task(task_id)["state"] not in ENDED]
            kept_late = [task_id for task_id in late if after.query("select 1 from tasks where id = %(i)s", i=task_id)]
            after.start_loops()
            after.start_workers(*WORKERS)
            for task_id in [*steady, *kept_late]:
                after.wait(task_id, 60)
            assert after.task(asking)["state"] == "waiting"
            again = submit(after)
            after.wait(again)
            assert ArtifactStore(after.engine, "default", None).get(held) == b"a report"
            assert told(after, done_before[0]) == told(house, done_before[0])
            assert told(after, again)[-1] == "task.succeeded", "what is new is told, after what is old"
            after.until(lambda: after.violations() == [], "nothing is violated")
            print(
                f"{len(open_then)} of {len(steady)} tasks went on, {len(late) - len(kept_late)} came after the backup"
            )
            after.signal(LOOPS, signal.SIGTERM)
            assert after.exit_code(LOOPS, 15) == 0


def submit(house: House, seconds: float = 0.05) -> UUID:
    return house.submit(fan(2, 4, lambda key: {"agent": "sleep", "input": {"seconds": seconds}}), team="threads")


def told(house: House, task_id: UUID) -> list[str]:
    """The types of the task's events, as those who follow it are told."""
    with transaction(house.engine) as connection:
        return [event.type for event in events.read(connection, "default", task_id, None, 1000)]


def program(name: str, url: str | None, *arguments: str) -> list[str]:
    """The server's own, from where the server is."""
    return [str(embedded_postgres._binaries(18) / name), *arguments, *([url] if url else [])]


def grow_old(url: str) -> None:
    """A server that has had more transactions than an empty one: what it calls the past is the other's future."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            f"""do $$ begin for i in 1..{TRANSACTIONS} loop
                perform pg_current_xact_id(); commit; end loop; end $$"""
        )
