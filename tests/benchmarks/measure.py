"""What a workload cost: CPU by component, over whole process trees, and commits as Postgres counts them."""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psutil
import psycopg
from celery import Celery

READY_SECONDS = 60.0


@dataclass(frozen=True)
class Snapshot:
    """Monotonic time; CPU seconds since their start by component; commits since the database was made."""

    at: float
    cpu: dict[str, float]
    commits: int


class Meter:
    """Reads counters. Postgres's backends report theirs about once a second: windows of seconds, not less."""

    def __init__(self, database_url: str) -> None:
        self._connection = psycopg.connect(database_url, autocommit=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def read(self, components: Mapping[str, Sequence[int]]) -> Snapshot:
        """The trees of `components` and, as `driver`, this process alone."""
        own = os.times()
        cpu = {name: sum(tree_seconds(pid) for pid in roots) for name, roots in components.items()}
        cpu["driver"] = own.user + own.system
        row = self._connection.execute(
            "select xact_commit from pg_stat_database where datname = current_database()"
        ).fetchone()
        return Snapshot(time.monotonic(), cpu, int(row[0]) if row else 0)


def await_workers(app: Celery, count: int) -> None:
    """Until `count` worker processes consume: they answer Celery's ping. Raises `RuntimeError` after a minute."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if len(app.control.ping(timeout=1.0)) == count:
            return
    raise RuntimeError(f"of {count} worker processes some do not answer after {READY_SECONDS:g} s")


def tree_seconds(pid: int) -> float:
    """User and system time of a process and all below it, those that have ended and been waited for included."""
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])  # user, system, and both of the children that were waited for
    return total


def machine(database_url: str) -> dict[str, object]:
    """Where the figures come from."""
    with psycopg.connect(database_url) as connection:
        row = connection.execute("show server_version").fetchone()
    uname = os.uname()
    return {
        "system": f"{uname.sysname} {uname.release} {uname.machine}",
        "cpus": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_average": os.getloadavg(),
        "postgres": row[0] if row else None,
    }
