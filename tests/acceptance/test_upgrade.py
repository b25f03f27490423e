"""A rolling upgrade as it is done: tasks in flight, the schema migrated under an older release's workers, new parts
started beside them, the old ones ended, some by kill -9. The older release is the real one: the last commit of this
repository before schema 0002, in processes of its own."""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import redis as redis_client

from contracts.teams import Team
from orchestrator.embedded import EmbeddedPostgres, EmbeddedRedis
from orchestrator.embedded.folder import free_port
from shared_state import keys, migrate
from shared_state.settings import PREFIX, Settings
from tests.legal_moves import install as install_legal_moves

from ..conftest import create_database
from .conftest import MakeHouse
from .house import API, LOOPS, House

ROOT = Path(__file__).parent.parent.parent
FIRST_MIGRATION_SINCE = "shared_state/migrations/0002_dead_letters.sql"
OLD_SCHEMA = "0001"
NEWER_THAN_THIS = "9999"
PATIENCE_SECONDS = 45.0
"""A machine with other things to do starts ten processes slowly."""


def git(*words: str) -> bytes:
    program = shutil.which("git")
    if program is None:
        pytest.skip("there is no git, so no older release to upgrade from")
    done = subprocess.run([program, *words], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no older release to upgrade from: git {words[0]} says {done.stderr.decode().strip()[:200]}")
    return done.stdout


@pytest.fixture(scope="module")
def old_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of the release before, in a folder of its own; skipped where the history does not reach back to it."""
    added = git("log", "--diff-filter=A", "--format=%H", "--", FIRST_MIGRATION_SINCE).decode().split()
    if not added:
        pytest.skip("no older release to upgrade from: the history does not have it")
    folder = tmp_path_factory.mktemp("old-release")
    with tarfile.open(fileobj=BytesIO(git("archive", f"{added[-1]}^"))) as archive:
        archive.extractall(folder, filter="data")
    return folder


class Installation(House):
    """Parts of two releases on one database; `home` says which is started."""

    def apply(self, team: Team) -> None:
        """Not by this release, which writes to tables that are not there yet: the older one's command does it."""

    def until(self, condition: Callable[[], object], what: str, deadline_seconds: float = PATIENCE_SECONDS) -> None:
        super().until(condition, what, deadline_seconds)

    def environment(self, settings: Settings) -> dict[str, str]:
        """Without settings that the release in `home` does not know: it refuses those."""
        known = (self.home / "shared_state" / "settings.py").read_text()
        return {
            name: value
            for name, value in super().environment(settings).items()
            if not name.startswith(PREFIX) or f" {name.removeprefix(PREFIX).lower()}: " in known
        }

    def orchestrator(self, *words: str) -> str:
        """What a command of the release in `home` prints; it must succeed."""
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", *words],
            cwd=self.home,
            env=self.environment(self.settings),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def start_api_on(self, name: str, port: int) -> str:
        """Its URL, once it answers."""
        self._start(name, ["-m", "orchestrator", "api"], self.settings.model_copy(update={"listen_port": port}))
        url = f"http://127.0.0.1:{port}/v1"
        self.until(lambda: _answers(url), f"{name} answers")
        return url

    def start_loops_as(self, name: str) -> None:
        self._start(name, ["-m", "orchestrator", "loops"], self.settings)

    def accepted_by(self, *workers: str) -> int:
        """How many attempts that ran in these workers made an accepted output."""
        sql = """select count(*) as n from outputs o join attempts a on a.step_id = o.step_id and a.epoch = o.epoch
            where a.worker = any (%(workers)s)"""
        return int(self.query(sql, workers=list(workers))[0]["n"])


class Visitors:
    """People who go on submitting tasks, all the time, to whichever API is told to them last."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.tasks: list[str] = []
        self.refusals: list[str] = []
        self._key = key
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._come)

    def __enter__(self) -> "Visitors":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        self._stop.set()
        self._thread.join(20)

    def _come(self) -> None:
        with httpx.Client(headers={"Authorization": f"Bearer {self._key}"}, timeout=10) as client:
            while not self._stop.wait(0.25):
                headers = {"Idempotency-Key": f"task-{len(self.tasks)}"}
                try:
                    answer = client.post(f"{self.url}/tasks", json=task(), headers=headers)
                except httpx.TransportError:
                    continue  # that API has just ended: the same key, at the next
                if answer.status_code != 201:
                    self.refusals.append(answer.text)
                    continue
                self.tasks.append(answer.json()["id"])
                shown = client.get(f"{self.url}/tasks/{self.tasks[0]}")
                if shown.status_code != 200:
                    self.refusals.append(shown.text)


def task() -> dict[str, Any]:
    """Steps of every kind, most of them short, some slow enough to be caught in flight."""
    middle: list[dict[str, Any]] = [
        {"id": "slow", "agent": "sleep", "input": {"seconds": 0.6}},
        {"id": "process", "agent": "echo_process", "input": {"n": 1}},
        {"id": "again", "agent": "fail", "input": {"times": 1, "code": "agent.flaky"}},
        {"id": "judged", "agent": "echo_reviewed", "input": {"value": 2}},
    ]
    first = {"id": "first", "agent": "echo", "input": {"n": 0}}
    join = {"id": "join", "agent": "echo", "input": {}, "needs": [step["id"] for step in middle]}
    steps = [first, *({**step, "needs": ["first"]} for step in middle), join]
    return {"team": "diagnostics", "plan": {"steps": steps}}


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").is_success
    except httpx.TransportError:
        return False


def migrate_with(home: Path, database_url: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(home), "ORCHESTRATOR_DATABASE_URL": database_url}
    subprocess.run([sys.executable, "-m", "orchestrator", "migrate"], cwd=home, env=environment, check=True)


@pytest.fixture
def installation(
    old_release: Path, postgres: EmbeddedPostgres, redis_server: EmbeddedRedis, tmp_path: Path
) -> Iterator[Installation]:
    """A database with the older release's schema and teams, and nothing started."""
    create_database(postgres, "upgraded")
    url = postgres.url_of("upgraded")
    with redis_client.Redis.from_url(redis_server.url) as client:
        client.flushall()
    migrate_with(old_release, url)
    install_legal_moves(url)
    with Installation(tmp_path, url, redis_server.url) as made:
        made.home = old_release
        made.orchestrator("teams", "apply", str(old_release / "workers" / "teams" / "diagnostics"))
        yield made


def test_a_rolling_upgrade_fails_no_task_and_does_nothing_twice(installation: Installation) -> None:
    house = installation
    old, new = ("old-1", "old-2"), ("new-1", "new-2")
    key = keys.create(house.engine, "default", "visitor", "operator")
    house.start_loops_as("old-loops")
    house.start_workers(*old)
    with Visitors(house.start_api_on("old-api", free_port()), key) as visitors:
        house.until(lambda: visitors.refusals or house.accepted_by(*old) > 20, "the old workers are at work")
        assert visitors.refusals == []

        assert migrate.current_revision(house.engine) == OLD_SCHEMA
        house.home = ROOT
        house.orchestrator("migrate")
        assert migrate.current_revision(house.engine) == migrate.head()
        submitted, accepted = len(visitors.tasks), house.accepted_by(*old)
        house.until(
            lambda: len(visitors.tasks) > submitted + 4 and house.accepted_by(*old) > accepted + 20,
            "the old parts go on with the new schema",
        )

        house.start_workers(*new)
        house.start_loops_as("new-loops")
        accepted = house.accepted_by(*old)
        house.until(
            lambda: house.accepted_by(*new) > 20 and house.accepted_by(*old) > accepted,
            "old and new workers work side by side",
        )
        visitors.url = house.start_api_on(API, free_port())
        house.signal("old-1", signal.SIGTERM)
        house.kill("old-2")
        for name in ("old-loops", "old-api"):
            house.signal(name, signal.SIGTERM)
        submitted = len(visitors.tasks)
        house.until(lambda: len(visitors.tasks) > submitted + 4, "tasks come in over the new API")
        visitors.leave()
        assert visitors.refusals == []
        for task_id in visitors.tasks:
            house.wait(UUID(task_id), PATIENCE_SECONDS)

    assert house.exit_code("old-1", PATIENCE_SECONDS) == 0
    steps = house.query("select state, count(*) as n from steps group by state")
    assert steps == [{"state": "succeeded", "n": 6 * len(visitors.tasks)}]
    told = house.query("select step_id from events where type = 'step.succeeded'")
    assert set(Counter(row["step_id"] for row in told).values()) == {1}
    assert len(told) == 6 * len(visitors.tasks)
    assert house.query("select id from dead_letters") == []
    assert house.violations() == []


def test_a_worker_that_the_schema_leaves_behind_says_so_and_stops(make_house: MakeHouse) -> None:
    house = make_house("behind")
    task_id = house.submit([{"id": "held", "agent": "sleep", "input": {"seconds": 6}}])
    house.until(lambda: house.running(task_id, "behind"), "it runs")
    (here,) = house.query("select version_num, serves_from from alembic_version")
    house.query(
        "update alembic_version set version_num = %(new)s::text, serves_from = %(new)s::text", new=NEWER_THAN_THIS
    )

    for name in ("behind", LOOPS):
        assert house.exit_code(name, PATIENCE_SECONDS) == 1, house.tail(name)
        assert f"schema is {NEWER_THAN_THIS}" in house.tail(name)
        assert f"made for schema {migrate.head()}) is too old: upgrade it" in house.tail(name)
    assert [attempt["state"] for attempt in house.attempts(task_id)] == ["succeeded"], "what it held is done"
    later = house.submit([{"id": "later", "agent": "echo"}])
    for name, program in (("late", ["-m", "workers"]), ("late-api", ["-m", "orchestrator", "api"])):
        house._start(name, program, house.settings.model_copy(update={"worker_name": name, "listen_port": free_port()}))
        assert house.exit_code(name, PATIENCE_SECONDS) == 1, house.tail(name)
        assert "too old: upgrade it" in house.tail(name)

    house.query("update alembic_version set version_num = %(version_num)s, serves_from = %(serves_from)s::text", **here)
    house.start_workers("again")
    house.wait(task_id)
    house.wait(later)
