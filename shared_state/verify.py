"""Invariants: read `invariants.sql`, run every query at one moment, and say what breaks which."""

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from sqlalchemy import Engine

from shared_state.engine import transaction
from shared_state.statements import query

Kind = Literal["safety", "liveness"]
_HEADER = re.compile(r"^-- (I\d+): (safety|liveness): (.+)$", re.MULTILINE)
_WHOLE_TABLES = (
    "plan_cache_mode = auto",
    "enable_seqscan = on",
    "enable_bitmapscan = on",
    "enable_mergejoin = on",
    "enable_hashjoin = on",
)
"""What pins the plans of transitions would make these statements, which read whole tables, slow."""


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
        query(connection, "set transaction isolation level repeatable read, read only")
        for setting in ("statement_timeout = '300s'", *_WHOLE_TABLES):
            query(connection, f"set local {setting}")
        for each in invariants():
            body = each.sql.strip().rstrip(";")
            rows = query(connection, f"select * from ({body}) v (id, text) limit {int(limit)}")
            found.extend(
                Violation(each.name, each.kind, each.meaning, str(row["id"]), str(row["text"])) for row in rows
            )
    return found
