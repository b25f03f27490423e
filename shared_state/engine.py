"""The connection pool and the transaction: the only way to Postgres.

SQLAlchemy keeps the connections; statements are psycopg's own (`statements.py`), prepared and with pinned plans: every
statement here is written for one way of running it, by index, and nothing should change its mind at three in the night
because a table was empty when it was first planned. Statements over whole tables lift this for themselves.
"""

import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import InterfaceError as WrappedInterfaceError
from sqlalchemy.exc import OperationalError as WrappedOperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import NullPool, PoolProxiedConnection

from contracts.errors import Unavailable
from contracts.ids import uuid7
from shared_state.connection import Connection

T = TypeVar("T")

_CONFLICTS = {"40001", "40P01"}
"""serialization_failure and deadlock_detected: the whole transaction may be tried again."""
_ATTEMPTS = 10
_AWAY = (psycopg.OperationalError, psycopg.InterfaceError, WrappedOperationalError, WrappedInterfaceError, PoolTimeout)
_IDLE_SECONDS = 1.0
"""A connection that was not used for this long is tried before it is handed out: Postgres may have been restarted."""
FIRST_STATEMENT = "orchestrator_first_statement"
"""The execution option of an engine whose every transaction begins with this: SQL and parameters, sent with BEGIN."""
_LIMITS = {"statement_timeout": 30_000, "lock_timeout": 10_000, "idle_in_transaction_session_timeout": 10_000}
"""In milliseconds. What a process holds that is frozen in the middle of a transaction, is free again after the last."""
_PLANS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_mergejoin": "off",
    "enable_hashjoin": "off",
    "random_page_cost": "1.1",
    "jit": "off",
}


def lost_settings(found: dict[str, str]) -> str | None:
    """The SQL that mends it, where a pooler between us and Postgres has dropped what a connection asks for; else None.

    `found` is what is in force, by name.
    """
    lost = {name: value for name, value in _PLANS.items() if found.get(name) != value}
    return " ".join(f"alter role current_user set {name} = '{value}';" for name, value in lost.items()) or None


def make_engine(url: str, *, pool_size: int = 5, application: str = "orchestrator", pool_seconds: float = 5) -> Engine:
    """A pool that never waits long: 5 s to connect, `pool_seconds` for a free connection, 30 s for a statement."""
    if url.startswith("postgresql://"):
        url = "postgresql+psycopg://" + url.removeprefix("postgresql://")
    connect_args = {
        "connect_timeout": 5,
        "application_name": application,
        "options": " ".join(f"-c {name}={value}" for name, value in {**_LIMITS, **_PLANS}.items()),
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    }
    # Inputs and outputs are parameters: an error's text must not carry them into logs.
    common: dict[str, Any] = {"connect_args": connect_args, "hide_parameters": True}
    if pool_size == 0:
        return create_engine(url, poolclass=NullPool, **common)
    engine = create_engine(url, pool_size=pool_size, max_overflow=0, pool_timeout=pool_seconds, **common)
    event.listen(engine, "checkin", _note_idle)
    event.listen(engine, "checkout", _try_idle)
    return engine


def _note_idle(_connection: Any, record: Any) -> None:
    record.info["idle_since"] = time.monotonic()


def _try_idle(connection: psycopg.Connection, record: Any, _proxy: Any) -> None:
    """Asking every time would cost a round trip and, in autocommit, a transaction each."""
    if time.monotonic() - record.info.get("idle_since", time.monotonic()) < _IDLE_SECONDS:
        return
    try:
        connection.execute("select")
        connection.rollback()
    except psycopg.Error as error:
        raise DisconnectionError from error


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """One transaction: committed at the end, rolled back on any error. Raises `Unavailable` when Postgres is away."""
    first: tuple[str, dict[str, Any]] | None = engine.get_execution_options().get(FIRST_STATEMENT)
    with away_is_unavailable():
        pooled = engine.raw_connection()
        try:
            connection = _connection_of(pooled)
            try:
                connection.begin()
                if first is not None:
                    connection.send(*first)
                yield connection
                connection.commit()
            except psycopg.errors.FeatureNotSupported as error:
                # A prepared `select *` of a table that a migration has added to: it can never run again as it is.
                pooled.invalidate()
                raise Unavailable("the database's schema was changed just now; try again") from error
            except BaseException:
                _roll_back(connection, pooled)
                raise
        finally:
            pooled.close()


def _connection_of(pooled: PoolProxiedConnection) -> Connection:
    """The one of this driver's connection, with what it has prepared."""
    known: Connection | None = pooled.info.get("connection")
    if known is None:
        driver: Any = pooled.driver_connection
        known = pooled.info["connection"] = Connection(driver)
    return known


def _roll_back(connection: Connection, pooled: PoolProxiedConnection) -> None:
    try:
        connection.roll_back()
    except psycopg.Error:
        pooled.invalidate()


class LostRace(Exception):
    """What the transaction needs is held by another that may wait for this one: let go of all of it, then try again."""


def retrying(engine: Engine, work: Callable[[Connection], T]) -> T:
    """Run `work` in a transaction, again from the start when Postgres reports a deadlock or a race is lost.

    Raises `Unavailable` when that does not end: it says nothing about the data, so nobody's work is to blame.
    """
    for attempt in range(_ATTEMPTS):
        try:
            with transaction(engine) as connection:
                return work(connection)
        except (psycopg.Error, DBAPIError, LostRace) as error:
            if not is_conflict(error):
                raise
            time.sleep(random.uniform(0, 0.005 * 2**attempt))
    raise Unavailable("the database is busy: the same rows are changed by others again and again")


@contextmanager
def away_is_unavailable() -> Iterator[None]:
    try:
        yield
    except _AWAY as error:
        if is_conflict(error):
            raise
        raise Unavailable(f"the database does not answer or refuses the work ({_summary(error)})") from error


def is_conflict(error: Exception) -> bool:
    return isinstance(error, LostRace) or getattr(getattr(error, "orig", error), "sqlstate", None) in _CONFLICTS


def database_is_away(error: Unavailable) -> bool:
    """Whether Postgres could not be reached or had no connection to spare; it refused only this work otherwise."""
    cause = error.__cause__
    state = getattr(getattr(cause, "orig", cause), "sqlstate", None)
    return isinstance(cause, _AWAY) and (state is None or state.startswith(("08", "57P", "533")))


def new_id() -> UUID:
    """A fresh UUIDv7 by this process's clock; nothing relies on its order but listings."""
    return uuid7(time.time_ns() // 1_000_000, secrets.token_bytes(10))


def _summary(error: Exception) -> str:
    """The server's own first line, which names no secret; the class name where there is none."""
    original = getattr(error, "orig", error)
    diagnosis = getattr(getattr(original, "diag", None), "message_primary", None)
    return diagnosis or type(original).__name__
