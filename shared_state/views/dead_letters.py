"""Dead letters: what was given up on, why, and which of it can be put back."""

import base64
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection

from contracts.errors import CODES, NotFound
from shared_state.shapes import DeadLetter, DeadLetterDetail
from shared_state.statements import run
from shared_state.views import fields
from shared_state.views.fields import Row


def page(
    connection: Connection,
    tenant: str,
    *,
    limit: int | None,
    before: UUID | None = None,
    state: str | None = None,
    reason: str | None = None,
    team: str | None = None,
    task_id: UUID | None = None,
    step_id: UUID | None = None,
) -> list[DeadLetter]:
    """Newest first. `reason` is a code, or the part of codes before the dot (`gate` finds `gate.rejected`)."""
    rows = run(
        connection,
        "view_dead_letters",
        tenant=tenant,
        before=before,
        state=state,
        reason=reason,
        team=team,
        task=task_id,
        step=step_id,
        limit=limit,
    )
    return [_dead_letter(row) for row in rows]


def of_step(connection: Connection, tenant: str, step_id: UUID) -> list[DeadLetter]:
    """Oldest first."""
    return page(connection, tenant, limit=None, step_id=step_id)[::-1]


def read(connection: Connection, tenant: str, letter_id: UUID, *, detailed: bool) -> DeadLetterDetail:
    """One dead letter. `detailed` adds the raw bytes and headers of a message that could not be read."""
    rows = run(connection, "view_dead_letter", id=letter_id, tenant=tenant)
    if not rows:
        raise NotFound(f"there is no dead letter {letter_id}; `orchestrator dead-letters list` lists yours")
    row = rows[0]
    shown = detailed and row["raw"] is not None
    return {
        **_dead_letter(row),
        "step_input": row["input"],
        "headers": row["headers"] if shown else None,
        "raw_base64": base64.b64encode(row["raw"]).decode() if shown else None,
    }


def redrivable(
    connection: Connection,
    tenant: str,
    *,
    limit: int,
    reason: str | None = None,
    team: str | None = None,
    ids: Sequence[UUID] | None = None,
) -> list[UUID]:
    """Open dead letters of steps whose task was not cancelled: those that a redrive can put back. Oldest first."""
    rows = run(
        connection,
        "view_redrivable",
        tenant=tenant,
        reason=reason,
        team=team,
        ids=list(ids) if ids is not None else None,
        limit=limit,
    )
    return [row["id"] for row in rows]


def _dead_letter(row: Row) -> DeadLetter:
    code = CODES.get(row["reason"])
    return {
        "id": str(row["id"]),
        "state": row["state"],
        "reason": row["reason"],
        "text": row["text"],
        "meaning": code.meaning if code else None,
        "remedy": code.remedy if code else None,
        "task_id": fields.id_or_none(row["task_id"]),
        "step_id": fields.id_or_none(row["step_id"]),
        "step_key": row["key"],
        "agent": row["agent"],
        "team": row["team_name"],
        "epoch": row["epoch"],
        "queue": row["queue"],
        "raw_size_bytes": row["raw_size_bytes"],
        "raw_sha256": row["raw_sha256"],
        "created_at": fields.time(row["created_at"]),
        "closed_at": fields.time_or_none(row["closed_at"]),
        "closed_by": row["closed_by"],
        "close_reason": row["close_reason"],
    }
