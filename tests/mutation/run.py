"""One mutant after the other: a pytest process each, one Postgres for all of them."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psycopg

from orchestrator.embedded import EmbeddedPostgres
from shared_state.migrate import upgrade
from tests.conftest import create_database
from tests.legal_moves import install as install_legal_moves
from tests.mutation.checks import CHECKS, COLLECT, DATABASE, DEAD_LETTERS, FORKS, REFINEMENT, RULES
from tests.mutation.guards import guards
from tests.mutation.survivors import EXPLAINED

HISTORIES = "12"
_FAILED = re.compile(r"^(?:FAILED|ERROR) (?:\S+::)?(\S+)", re.MULTILINE)
_NOT_SQL = re.compile(r"SyntaxError|UndefinedColumn|UndefinedTable|AmbiguousColumn|IndeterminateDatatype|UsageError")

Verdict = Literal["killed", "survived", "timeout", "invalid"]


@dataclass(frozen=True)
class Mutant:
    """`setting` is what the plugin reads; `tests` are run in this order until one fails."""

    name: str
    setting: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    mutant: Mutant
    verdict: Verdict
    seconds: float
    by: str
    """The test that noticed."""

    @property
    def killed(self) -> bool:
        return self.verdict in ("killed", "timeout")

    @property
    def explanation(self) -> str:
        return EXPLAINED.get(self.mutant.name, "")


def mutants(wanted: Sequence[str]) -> list[Mutant]:
    """Those whose name contains one of the words; all of them without words."""
    found = [
        Mutant(str(guard), f"sql/{guard.statement}/{guard.name}", _responsible(guard.statement)) for guard in guards()
    ]
    found += [Mutant(name, f"python/{name}", check.tests) for name, check in CHECKS.items()]
    return [mutant for mutant in found if not wanted or any(word in mutant.name for word in wanted)]


def _responsible(statement: str) -> tuple[str, ...]:
    if statement in ("fork", "fork_origin"):
        return FORKS
    if statement in ("judge", "park", "release", "admit", "pause", "resume", "keep_limits"):
        return RULES
    if statement == "collect":
        return COLLECT
    of_letters = statement in ("redrive", "redrive_message", "edit", "discard")
    return (*DATABASE, *(DEAD_LETTERS if of_letters else ()), *(RULES if statement == "claim" else ()), *REFINEMENT)


@contextmanager
def shared_database() -> Iterator[str]:
    """The URL of a migrated database with the triggers of the tests."""
    with (
        tempfile.TemporaryDirectory(prefix="orchestrator-mutants-") as folder,
        EmbeddedPostgres(Path(folder) / "postgres") as server,
    ):
        create_database(server, "mutants")
        url = server.url_of("mutants")
        upgrade(url)
        install_legal_moves(url)
        yield url


def check_baseline(database: str, tests: Sequence[str]) -> float:
    """Seconds that the tests take when nothing is wrong. Raises `RuntimeError` when they fail."""
    started = time.monotonic()
    done = _pytest(database, "", tests, 900)
    if done.returncode:
        raise RuntimeError(f"the tests fail without any mutant:\n{done.stdout[-4000:]}")
    return time.monotonic() - started


def try_mutant(mutant: Mutant, database: str, limit_seconds: float) -> Result:
    _end_sessions(database)
    started = time.monotonic()
    try:
        done = _pytest(database, mutant.setting, mutant.tests, limit_seconds)
    except subprocess.TimeoutExpired:
        return Result(mutant, "timeout", time.monotonic() - started, "")
    failed = _FAILED.search(done.stdout)
    seconds = time.monotonic() - started
    if done.returncode == 0:
        return Result(mutant, "survived", seconds, "")
    if done.returncode != 1 or failed is None or _NOT_SQL.search(done.stdout):
        return Result(mutant, "invalid", seconds, done.stdout[-600:])
    return Result(mutant, "killed", seconds, failed[1])


def _pytest(
    database: str, setting: str, tests: Sequence[str], limit_seconds: float
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "tests.mutation.plugin", "-o", "addopts=-q", "-x", "--tb=short"]
    environment = os.environ | {
        "ORCHESTRATOR_TEST_MUTANT": setting,
        "ORCHESTRATOR_TEST_MUTANT_DATABASE": database,
        "ORCHESTRATOR_TEST_HISTORIES": HISTORIES,
        "ORCHESTRATOR_TEST_SHRINKING_SECONDS": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    arguments = [*command, "-p", "no:cacheprovider", *tests]
    # Into a file, and as a group: what a killed process leaves running must not be able to hold us up.
    with tempfile.TemporaryFile(mode="w+") as output:
        process = subprocess.Popen(
            arguments, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        output.seek(0)
        return subprocess.CompletedProcess(arguments, process.returncode, output.read(), "")


def _end_sessions(database: str) -> None:
    """What the last mutant's process left behind must not hold up the next."""
    with psycopg.connect(database, autocommit=True, connect_timeout=10) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
