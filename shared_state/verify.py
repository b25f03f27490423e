"""Invariants: read `invariants.sql`, run every query at one moment, and say what breaks which."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal
from uuid import UUID

from sqlalchemy import Engine

from shared_state.connection import Connection
from shared_state.engine import transaction
from shared_state.statements import query

Kind = Literal["safety", "liveness"]
_HEADER = re.compile(r"^-- (I\d+): (safety|liveness): (.+)$", re.MULTILINE)
_WHOLE_TABLES = (
    "plan_cache_mode = force_custom_plan",
    "enable_seqscan = on",
    "enable_bitmapscan = on",
    "enable_mergejoin = on",
    "enable_hashjoin = on",
)
"""What pins the plans of transitions would make these statements, which read whole tables, slow."""
_AMONG = """
    tasks as not materialized (select t.* from tasks t where t.id = any(%(tasks)s::uuid[])),
    steps as not materialized (select s.* from steps s where s.task_id = any(%(tasks)s::uuid[])),
    outputs as not materialized (select o.* from outputs o join steps s on s.id = o.step_id)"""
"""Under these names a query finds the rows of some tasks only; what it joins to them it then finds by index."""


@dataclass(frozen=True)
class Invariant:
    name: str
    kind: Kind
    meaning: str
    sql: str


@dataclass(frozen=True)
class Violation:
    """One row that breaks an invariant: `id` is the step's, task's or dead letter's."""

    invariant: str
    kind: Kind
    meaning: str
    id: str
    text: str


@cache
def invariants() -> tuple[Invariant, ...]:
    text = files("shared_state").joinpath("invariants.sql").read_text(encoding="utf-8")
    headers = list(_HEADER.finditer(text))
    ends = [*(header.start() for header in headers[1:]), len(text)]
    return tuple(
        Invariant(header[1], "safety" if header[2] == "safety" else "liveness", header[3], text[header.end() : end])
        for header, end in zip(headers, ends, strict=True)
    )


def violations(engine: Engine, *, limit: int = 100) -> list[Violation]:
    """Everything that is wrong at one moment, at most `limit` rows an invariant. Empty means healthy."""
    found: list[Violation] = []
    with transaction(engine) as connection:
        read_one_moment(connection, timeout_seconds=300)
        for each in invariants():
            found.extend(broken(connection, each, limit=limit))
    return found


def read_one_moment(connection: Connection, *, timeout_seconds: float) -> None:
    """To be called first in a transaction: it changes nothing, and all its statements see one snapshot."""
    query(connection, "set transaction isolation level repeatable read, read only")
    limit_time(connection, timeout_seconds)
    for setting in _WHOLE_TABLES:
        query(connection, f"set local {setting}")


def limit_time(connection: Connection, seconds: float) -> None:
    """For each statement until the end of the transaction."""
    milliseconds = str(max(1, int(seconds * 1000)))
    query(connection, "select set_config('statement_timeout', %(milliseconds)s::text, true)", milliseconds=milliseconds)


def broken(
    connection: Connection, invariant: Invariant, *, limit: int, among: Sequence[UUID] | None = None
) -> list[Violation]:
    """What breaks one invariant, at most `limit` rows; only among the rows of the tasks `among`, where they are given.

    What concerns no task (dead letters of mere bytes) and the queues is looked at in either case.
    """
    body = invariant.sql.strip().rstrip(";")
    scope = "" if among is None else f"with {_AMONG}"
    parameters = {} if among is None else {"tasks": list(among)}
    rows = query(connection, f"{scope} select * from ({body}) v (id, text) limit {int(limit)}", **parameters)
    return [
        Violation(invariant.name, invariant.kind, invariant.meaning, str(row["id"]), str(row["text"])) for row in rows
    ]
