"""Behind PgBouncer, in the modes that work: what its dropping of session settings costs, and how `check` tells of it.

Transaction mode needs a PgBouncer that knows prepared statements, 1.21 or newer; ORCHESTRATOR_TEST_PGBOUNCER names one
where the installed one is older.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from orchestrator.cli import main as orchestrator
from orchestrator.embedded import EmbeddedPostgres
from orchestrator.embedded.folder import free_port, wait_until
from shared_state.engine import make_engine
from shared_state.settings import Settings

from ..conftest import create_database
from .driver import Driver

PROGRAM = os.environ.get("ORCHESTRATOR_TEST_PGBOUNCER") or shutil.which("pgbouncer") or ""
pytestmark = pytest.mark.skipif(
    not PROGRAM, reason="PgBouncer is not installed (Debian, Ubuntu: apt install pgbouncer)"
)
DATABASE = "behind_pgbouncer"


def version() -> tuple[int, ...]:
    said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"(\d+)\.(\d+)", said)
    assert found, said
    return int(found[1]), int(found[2])


@contextmanager
def pooled(folder: Path, postgres: EmbeddedPostgres, mode: str) -> Iterator[str]:
    """The URL of a database behind a pooler with two connections to Postgres."""
    url = postgres.url_of(DATABASE)
    password = psycopg.conninfo.conninfo_to_dict(url)["password"]
    port = free_port()
    folder.mkdir()
    (folder / "users.txt").write_text(f'"orchestrator" "{password}"\n')
    lines = [
        "[databases]",
        f"* = host=127.0.0.1 port={postgres.port}",
        "[pgbouncer]",
        "listen_addr = 127.0.0.1",
        f"listen_port = {port}",
        "unix_socket_dir =",
        "auth_type = scram-sha-256",
        f"auth_file = {folder}/users.txt",
        f"pool_mode = {mode}",
        "default_pool_size = 2",
        "ignore_startup_parameters = options",
        *(["max_prepared_statements = 500"] if version() >= (1, 21) else []),
    ]
    (folder / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
    program = [PROGRAM, str(folder / "pgbouncer.ini")]
    if os.geteuid() == 0:
        program[1:1] = ["-u", "nobody"]
        for path in (folder, *folder.iterdir(), *folder.parents[:2]):
            path.chmod(path.stat().st_mode | 0o055)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(program, stdout=log, stderr=log)
    given = url.replace(f":{postgres.port}/", f":{port}/")
    try:
        assert wait_until(lambda: answers(given), lambda: process.poll() is None, 10), (folder / "log").read_text()
        yield given
    finally:
        process.terminate()
        process.wait(10)


def answers(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture
def database(postgres: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    create_database(postgres, DATABASE, template_database)
    yield postgres.url_of(DATABASE)
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("alter role current_user in database " + DATABASE + " reset all")
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(DATABASE)))


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_work_goes_through_it(
    mode: str,
    database: str,
    postgres: EmbeddedPostgres,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if mode == "transaction" and version() < (1, 21):
        pytest.skip("this PgBouncer is older than 1.21: in transaction mode it knows no prepared statements")
    with pooled(tmp_path / "pgbouncer", postgres, mode) as url:
        monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", url)
        assert orchestrator(["check"]) == 1
        said = " ".join(capsys.readouterr().out.split())
        assert "a pooler drops the settings" in said
        with psycopg.connect(database, autocommit=True) as connection:
            for name, value in re.findall(r"set (\w+) = '(\w[\w.]*)';", said):
                connection.execute(f"alter role current_user in database {DATABASE} set {name} = '{value}'")
        with pooled(tmp_path / "again", postgres, mode) as url_again:
            engine = make_engine(Settings(database_url=url_again).database_url, pool_size=2)
            try:
                driver = Driver(engine)
                for _ in range(20):
                    driver.submit([{"id": "a"}, {"id": "b", "needs": ["a"]}])
                assert len(driver.finish_all(200)) == 40
                assert driver.query("show plan_cache_mode") == [{"plan_cache_mode": "force_generic_plan"}]
            finally:
                engine.dispose()
