"""A real Postgres and a real Redis, to be killed, frozen, filled and emptied; call from the main thread."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
import redis
from psycopg import sql

from orchestrator.embedded import EmbeddedPostgres, EmbeddedRedis
from shared_state.migrate import upgrade

TEMPLATE = "faults_template"


class Servers:
    def __init__(self, folder: Path) -> None:
        self.postgres = EmbeddedPostgres(folder / "postgres")
        self.redis = EmbeddedRedis(folder / "redis")

    def start(self) -> None:
        """Both run, thawed and as configured; at any time."""
        self.thaw()
        self.postgres.start()
        self.redis.start()
        with self.client() as client:
            client.config_set("maxmemory", 0)

    def stop(self) -> None:
        self.thaw()
        self.redis.stop()
        self.postgres.stop()

    def client(self) -> redis.Redis:
        """Impatient: what is broken must not stop the test."""
        return redis.Redis.from_url(self.redis.url, socket_timeout=5, socket_connect_timeout=5)

    def make_database(self, name: str, *, migrated: bool = True) -> str:
        """A new one, empty or at this version's schema; its URL."""
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            known = "select 1 from pg_database where datname = %s"
            if connection.execute(known, [TEMPLATE]).fetchone() is None:
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(TEMPLATE)))
                upgrade(self.postgres.url_of(TEMPLATE))
            copy = sql.SQL("create database {} template {}")
            template = TEMPLATE if migrated else "template0"
            connection.execute(copy.format(sql.Identifier(name), sql.Identifier(template)))
        return self.postgres.url_of(name)

    def drop_database(self, name: str) -> None:
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    # --- faults

    def wipe(self) -> None:
        """FLUSHALL."""
        with self.client() as client:
            client.flushall()

    def kill_redis(self, *, empty: bool = True) -> None:
        """kill -9; what it had on disk goes too, unless told otherwise. It stays down until `start`."""
        _kill([self.redis.pid])
        self._await_end(self.redis)
        if empty:
            for each in (self.redis.data_dir / "data").iterdir():
                shutil.rmtree(each) if each.is_dir() else each.unlink()

    def kill_postgres(self) -> None:
        """kill -9 of the postmaster and all its processes, as when the machine's power fails but for the disk's."""
        _kill(self._postgres_pids())
        self._await_end(self.postgres)

    def massacre(self, database: str, share: float = 1.0) -> int:
        """pg_terminate_backend for about that share of the database's connections; how many."""
        statement = """select count(pg_terminate_backend(pid)) from pg_stat_activity
            where datname = %s and pid <> pg_backend_pid() and random() < %s"""
        with psycopg.connect(self.postgres.url, autocommit=True, connect_timeout=5) as connection:
            row = connection.execute(statement, [database, share]).fetchone()
            return int(row[0]) if row else 0

    @contextmanager
    def frozen(self, server: str) -> Iterator[None]:
        """SIGSTOP every process of `postgres` or `redis` for the while."""
        pids = self._postgres_pids() if server == "postgres" else [self.redis.pid]
        _signal(pids, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(pids, signal.SIGCONT)

    def thaw(self) -> None:
        for pids in (self._postgres_pids(), [self.redis.pid]):
            _signal(pids, signal.SIGCONT)

    def connections(self, database: str) -> int:
        statement = "select count(*) from pg_stat_activity where datname = %s"
        with psycopg.connect(self.postgres.url, autocommit=True, connect_timeout=5) as connection:
            row = connection.execute(statement, [database]).fetchone()
            return int(row[0]) if row else 0

    def _postgres_pids(self) -> list[int | None]:
        pid = self.postgres.pid
        if pid is None:
            return []
        with suppress(psutil.NoSuchProcess):
            return [pid, *(each.pid for each in psutil.Process(pid).children(recursive=True))]
        return [pid]

    def _await_end(self, server: EmbeddedPostgres | EmbeddedRedis) -> None:
        deadline = time.monotonic() + 10
        while server.alive() and time.monotonic() < deadline:
            time.sleep(0.01)


def _kill(pids: list[int | None]) -> None:
    _signal(pids, signal.SIGKILL)


def _signal(pids: list[int | None], number: signal.Signals) -> None:
    for pid in pids:
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
