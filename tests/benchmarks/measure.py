"""What a workload cost: CPU and memory by component, over whole process trees; commits, log, traffic of the servers."""

import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import psutil
import psycopg
from celery import Celery

from tests.benchmarks.sockets import Connections, Traffic, read_connections, traffic_between

READY_SECONDS = 60.0


class Measured(Protocol):
    """Who is measured."""

    @property
    def database(self) -> str | None:
        """Whose commits count; None for who has none."""
        ...

    def components(self) -> Mapping[str, Sequence[int]]:
        """The roots of its process trees, by component."""
        ...

    def eyes(self) -> Set[int]:
        """Client ports of connections that only look whether workflows have ended: their traffic is not the side's."""
        ...


@dataclass(frozen=True)
class Snapshot:
    """Monotonic time; CPU seconds since their start by component; the rest as counters of the servers."""

    at: float
    cpu: dict[str, float]
    commits: int
    wal_bytes: int
    connections: dict[str, Connections]


@dataclass(frozen=True)
class Memory:
    """Of a process tree. RSS counts a shared page once per process, PSS shares it out, USS leaves it out."""

    rss_bytes: int
    pss_bytes: int
    uss_bytes: int


class Meter:
    """Reads counters. Postgres's backends report theirs about once a second: windows of seconds, not less."""

    def __init__(self, database_url: str, ports: Mapping[str, int]) -> None:
        """`ports` are those of the servers whose traffic is counted, by component. Only Linux counts it."""
        self._ports = ports if sys.platform == "linux" else {}
        self._connection = psycopg.connect(database_url, autocommit=True)
        self._own = {client_port(self._connection)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def read(self, who: Measured) -> Snapshot:
        """The trees of its components and, as `driver`, this process alone."""
        own = os.times()
        cpu = {name: sum(tree_seconds(pid) for pid in roots) for name, roots in who.components().items()}
        cpu["driver"] = own.user + own.system
        sql = "select coalesce(sum(xact_commit), 0)::bigint from pg_stat_database where datname = %s"
        return Snapshot(
            at=time.monotonic(),
            cpu=cpu,
            commits=self._number(sql, who.database),
            wal_bytes=self._number("select (pg_current_wal_insert_lsn() - '0/0')::bigint"),
            connections={name: read_connections(port) for name, port in self._ports.items()},
        )

    def traffic(self, who: Measured, first: Snapshot, last: Snapshot) -> dict[str, Traffic]:
        """By server, between two snapshots."""
        return {
            name: traffic_between(first.connections[name], last.connections[name], self._own | who.eyes())
            for name in self._ports
        }

    def _number(self, sql: str, *parameters: str | None) -> int:
        row = self._connection.execute(sql.encode(), parameters or None).fetchone()
        return int(row[0]) if row else 0


def client_port(connection: psycopg.Connection) -> int:
    """By which a connection is known among the server's sockets. Leaves no transaction open that was not."""
    row = connection.execute("select inet_client_port()").fetchone()
    if row is None:
        raise AssertionError("unreachable")
    return int(row[0])


def await_workers(app: Celery, count: int) -> None:
    """Until `count` worker processes consume: they answer Celery's ping. Raises `RuntimeError` after a minute."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if len(app.control.ping(timeout=1.0, limit=count)) == count:
            return
    raise RuntimeError(f"of {count} worker processes some do not answer after {READY_SECONDS:g} s")


def tree_seconds(pid: int) -> float:
    """User and system time of a process and all below it, those that have ended and been waited for included."""
    total = 0.0
    for process in tree(pid):
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])  # user, system, and both of the children that were waited for
    return total


def memory_of(who: Measured) -> dict[str, Memory]:
    """By component; `driver` is this process alone."""
    return {**memory_of_trees(who.components()), "driver": _memory([psutil.Process()])}


def memory_of_trees(roots: Mapping[str, Sequence[int]]) -> dict[str, Memory]:
    return {name: _memory([each for pid in pids for each in tree(pid)]) for name, pids in roots.items()}


def _memory(processes: Sequence[psutil.Process]) -> Memory:
    rss = pss = uss = 0
    for process in processes:
        # One that has just ended, or that runs under another account, tells nothing.
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            found = process.memory_full_info()
            rss, pss, uss = rss + found.rss, pss + found.pss, uss + found.uss
    return Memory(rss, pss, uss)


def tree(pid: int) -> list[psutil.Process]:
    """A process and all below it; nothing when it has ended."""
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    return []


def machine(database_url: str | None = None) -> dict[str, object]:
    """Where the figures come from."""
    postgres = None
    if database_url is not None:
        with psycopg.connect(database_url) as connection:
            row = connection.execute("show server_version").fetchone()
            postgres = row[0] if row else None
    uname = os.uname()
    return {
        "system": f"{uname.sysname} {uname.release} {uname.machine}",
        "cpus": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_average": os.getloadavg(),
        "postgres": postgres,
        "python": platform.python_version(),
    }
