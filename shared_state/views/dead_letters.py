"""Dead letters: what was given up on, why, and everything that helps to mend it, in one place."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from contracts.errors import CODES
from shared_state.connection import Connection
from shared_state.dead_letters import unknown
from shared_state.shapes import (
    Blocked,
    DeadLetter,
    DeadLetterCount,
    DeadLetterDetail,
    DeadLetterTask,
    Edit,
    Note,
    WebhookState,
)
from shared_state.statements import load, query, run
from shared_state.views import fields, history, model_calls
from shared_state.views.bytes_read import decoded
from shared_state.views.fields import Row

_BLOCKED_LIMIT = 500


@dataclass(frozen=True)
class Wanted:
    """All that are given must fit. `reason` is a code, or the part of codes before the dot (`gate` finds
    `gate.rejected`); `text` is a part of the letter's text, in any case; `since` counts, `until` does not."""

    state: str | None = None
    reason: str | None = None
    team: str | None = None
    agent: str | None = None
    queue: str | None = None
    task: UUID | None = None
    step: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None


def page(
    connection: Connection, tenant: str, wanted: Wanted, *, limit: int | None, before: UUID | None = None
) -> list[DeadLetter]:
    """Newest first; `before` is the last id of the previous page."""
    rows = run(connection, "view_dead_letters", tenant=tenant, before=before, limit=limit, **asdict(wanted))
    return [_dead_letter(row) for row in rows]


def of_step(connection: Connection, tenant: str, step_id: UUID) -> list[DeadLetter]:
    """Oldest first."""
    return page(connection, tenant, Wanted(step=step_id), limit=None)[::-1]


def ids(
    connection: Connection, tenant: str, wanted: Wanted, *, limit: int, among: Sequence[UUID] | None = None
) -> list[UUID]:
    """The ids of the oldest that fit, oldest first; only those of `among` where it is given."""
    rows = query(
        connection,
        f"""select id from ({load("view_dead_letters")}) found
        where %(among)s::uuid[] is null or id = any (%(among)s) order by id limit %(most)s""",
        among=None if among is None else list(among),
        tenant=tenant,
        before=None,
        limit=None,
        most=limit,
        **asdict(wanted),
    )
    return [row["id"] for row in rows]


def counts(connection: Connection, tenant: str, wanted: Wanted) -> list[DeadLetterCount]:
    """How many fit by reason, the most frequent first."""
    rows = query(
        connection,
        f"""select reason, count(*) as count, min(created_at) as first, max(created_at) as last
        from ({load("view_dead_letters")}) found group by reason order by count(*) desc, reason""",
        tenant=tenant,
        before=None,
        limit=None,
        **asdict(wanted),
    )
    return [_count(row) for row in rows]


def read(connection: Connection, tenant: str, letter_id: UUID, *, detailed: bool) -> DeadLetterDetail:
    """One dead letter with its story. `detailed` adds raw bytes, headers, error details and log tails."""
    rows = run(connection, "view_dead_letter", id=letter_id, tenant=tenant)
    if not rows:
        raise unknown(letter_id)
    row = rows[0]
    step_id = row["step_id"]
    shown = detailed and row["raw"] is not None
    return {
        **_dead_letter(row),
        "message": _message(row, detailed=detailed),
        "headers": row["headers"] if shown else None,
        "raw_base64": base64.b64encode(row["raw"]).decode() if shown else None,
        "task": _task(row),
        "step_input": row["input"],
        "feedback": row["feedback"],
        "attempts": history.attempts(connection, step_id, detailed=detailed) if step_id else [],
        "model_calls": model_calls.of_step(connection, tenant, step_id) if step_id else [],
        "proposals": history.proposals(connection, step_id) if step_id else [],
        "blocks": _blocks(connection, step_id) if step_id else [],
        "edits": _edits(connection, letter_id),
        "notes": _notes(connection, letter_id),
        "webhook": _webhook(row),
    }


def export(
    connection: Connection, tenant: str, wanted: Wanted, *, limit: int, before: UUID | None, detailed: bool
) -> Iterator[DeadLetterDetail]:
    """As `page`, each with its whole story."""
    for letter in page(connection, tenant, wanted, limit=limit, before=before):
        yield read(connection, tenant, UUID(letter["id"]), detailed=detailed)


def explain(reason: str) -> tuple[str, str]:
    """What a reason code means and what to do; codes that are not ours are an agent's."""
    code = CODES.get(reason)
    if code is None:
        return "The agent gave up with a code of its own.", "Read the text; mend the agent or the input, then redrive."
    return code.meaning, code.remedy


def _dead_letter(row: Row) -> DeadLetter:
    meaning, remedy = explain(row["reason"])
    return {
        "id": str(row["id"]),
        "state": row["state"],
        "reason": row["reason"],
        "text": row["text"],
        "meaning": meaning,
        "remedy": remedy,
        "task_id": fields.id_or_none(row["task_id"]),
        "step_id": fields.id_or_none(row["step_id"]),
        "step_key": row["key"],
        "agent": row["agent"],
        "team": row["team_name"],
        "step_state": row["step_state"],
        "task_state": row["task_state"],
        "epoch": row["epoch"],
        "queue": row["queue"],
        "raw_size_bytes": row["raw_size_bytes"],
        "raw_sha256": row["raw_sha256"],
        "created_at": fields.time(row["created_at"]),
        "closed_at": fields.time_or_none(row["closed_at"]),
        "closed_by": row["closed_by"],
        "close_reason": row["close_reason"],
    }


def _count(row: Row) -> DeadLetterCount:
    meaning, remedy = explain(row["reason"])
    return {
        "reason": row["reason"],
        "count": row["count"],
        "first_at": fields.time(row["first"]),
        "last_at": fields.time(row["last"]),
        "meaning": meaning,
        "remedy": remedy,
    }


def _message(row: Row, *, detailed: bool) -> Any:
    """What lay on the queue: what the message said of this step, or what can be read of the bytes."""
    if row["step_id"] is None:
        return decoded(row["raw"]) if detailed else None
    return {
        "kind": row["kind"],
        "queue": row["queue"],
        "steps": [{"id": str(row["step_id"]), "epoch": row["epoch"]}],
        "traceparent": row["traceparent"],
    }


def _task(row: Row) -> DeadLetterTask | None:
    if row["task_id"] is None:
        return None
    return {
        "id": str(row["task_id"]),
        "team": row["team_name"],
        "team_digest": row["team_digest"],
        "state": row["task_state"],
        "goal": row["goal"],
        "error": fields.error(row["task_error"]),
        "finished_at": fields.time_or_none(row["task_finished_at"]),
    }


def _blocks(connection: Connection, step_id: UUID) -> list[Blocked]:
    rows = run(connection, "view_blocked", id=step_id, limit=_BLOCKED_LIMIT)
    return [
        {"step_id": str(row["id"]), "step_key": row["key"], "agent": row["agent"], "state": row["state"]}
        for row in rows
    ]


def _edits(connection: Connection, letter_id: UUID) -> list[Edit]:
    rows = query(
        connection, "select * from dead_letter_edits where dead_letter_id = %(id)s order by edited_at", id=letter_id
    )
    return [
        {
            "editor": row["editor"],
            "edited_at": fields.time(row["edited_at"]),
            "before": row["before"],
            "after": row["after"],
        }
        for row in rows
    ]


def _notes(connection: Connection, letter_id: UUID) -> list[Note]:
    rows = query(
        connection, "select * from dead_letter_notes where dead_letter_id = %(id)s order by written_at", id=letter_id
    )
    return [
        {"author": row["author"], "written_at": fields.time(row["written_at"]), "text": row["text"]} for row in rows
    ]


def _webhook(row: Row) -> WebhookState:
    return {
        "sent_at": fields.time_or_none(row["webhook_sent_at"]),
        "due_at": fields.time_or_none(row["webhook_due_at"]),
        "count": row["webhook_count"],
        "error": row["webhook_error"],
    }
