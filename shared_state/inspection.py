"""The invariants in production: looked at again and again, at a bounded cost, by one process at a time.

A look at everything costs what the whole history costs. A pass looks at the tasks that are open or ended a short while
ago, at most so many of them, for at most so long; what it did not reach is reached first by the passes after it.
`orchestrator verify` looks at everything.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

import psycopg
from sqlalchemy import Engine

from shared_state.connection import Connection
from shared_state.engine import transaction
from shared_state.statements import query
from shared_state.verify import Invariant, Violation, broken, invariants, limit_time, read_one_moment

PASS_SECONDS = 5.0
"""How long one pass may take, all its statements together."""
TASK_LIMIT = 1_000
"""How many tasks one pass looks at; of more, the next pass looks at the next ones."""
LATELY_SECONDS = 600.0
VIOLATION_LIMIT = 100
_LOCK = 0x76657269
_NONE = UUID(int=0)


@dataclass(frozen=True)
class Inspection:
    """What one pass found; `unchecked` are the names of invariants that it had no time for."""

    violations: list[Violation]
    task_count: int
    unchecked: list[str]
    seconds: float


class Inspector:
    """Looks at the invariants whenever it is asked to, if no other process does.

    `engine` has one connection and is used by nobody else: the connection holds, for as long as it lives, the lock that
    keeps every other inspector from doing the same.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        pass_seconds: float = PASS_SECONDS,
        task_limit: int = TASK_LIMIT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._pass_seconds = pass_seconds
        self._task_limit = task_limit
        self._clock = clock
        self._after = _NONE
        self._first = 0

    def inspect(self) -> Inspection | None:
        """One pass; null when another process is the one that inspects. Raises `Unavailable`."""
        began = self._clock()
        found: list[Violation] = []
        task_count = 0
        unchecked = self._turn()
        with suppress(_TooLate), transaction(self._engine) as connection:
            read_one_moment(connection, timeout_seconds=self._pass_seconds)
            if not query(connection, "select pg_try_advisory_lock(%(key)s::bigint) as mine", key=_LOCK)[0]["mine"]:
                return None
            tasks = self._choose_tasks(connection)
            task_count = len(tasks)
            while unchecked:
                found += _broken_within(connection, unchecked[0], tasks, began + self._pass_seconds - self._clock())
                unchecked = unchecked[1:]
        if unchecked:
            # The one that took too long comes last in the next pass: those after it get their turn.
            self._first = (invariants().index(unchecked[0]) + 1) % len(invariants())
        return Inspection(found, task_count, [each.name for each in unchecked], self._clock() - began)

    def _turn(self) -> list[Invariant]:
        return [*invariants()[self._first :], *invariants()[: self._first]]

    def _choose_tasks(self, connection: Connection) -> Sequence[UUID]:
        """The next ones by id, and from the first again after the last."""
        rows = query(
            connection,
            """select id from tasks
            where finished_at is null or finished_at > clock_timestamp() - make_interval(secs => %(lately)s::float8)
            order by id <= %(after)s::uuid, id limit %(limit)s::int""",
            lately=LATELY_SECONDS,
            after=self._after,
            limit=self._task_limit,
        )
        self._after = rows[-1]["id"] if len(rows) == self._task_limit else _NONE
        return [row["id"] for row in rows]


class _TooLate(Exception):
    """The pass's time is over. It ends the transaction, which has only read."""


def _broken_within(
    connection: Connection, invariant: Invariant, tasks: Sequence[UUID], seconds: float
) -> list[Violation]:
    """Raises `_TooLate` when the time is too short."""
    if seconds <= 0:
        raise _TooLate
    try:
        limit_time(connection, seconds)
        return broken(connection, invariant, limit=VIOLATION_LIMIT, among=tasks)
    except psycopg.errors.QueryCanceled as error:
        raise _TooLate from error
