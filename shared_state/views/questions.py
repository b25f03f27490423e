"""Questions: what steps ask of people."""

from uuid import UUID

from contracts.errors import NotFound
from shared_state.connection import Connection
from shared_state.shapes import Question
from shared_state.statements import query, run
from shared_state.views import fields
from shared_state.views.fields import Row


def page(
    connection: Connection,
    tenant: str,
    *,
    limit: int,
    before: UUID | None = None,
    state: str | None = None,
    task_id: UUID | None = None,
) -> list[Question]:
    """Newest first; `before` is the last id of the previous page."""
    rows = run(connection, "view_questions", tenant=tenant, before=before, state=state, task=task_id, limit=limit)
    return [_question(row) for row in rows]


def read(connection: Connection, tenant: str, question_id: UUID) -> Question:
    rows = query(
        connection,
        """
        select q.*, s.key from questions q join steps s on s.id = q.step_id
        where q.id = %(id)s and q.tenant_id = %(tenant)s
        """,
        id=question_id,
        tenant=tenant,
    )
    if not rows:
        raise NotFound(f"there is no question {question_id}; `orchestrator questions list` lists yours")
    return _question(rows[0])


def of_step(connection: Connection, step_id: UUID) -> list[Question]:
    """Oldest first."""
    rows = query(
        connection,
        """
        select q.*, s.key from questions q join steps s on s.id = q.step_id
        where q.step_id = %(id)s order by q.id
        """,
        id=step_id,
    )
    return [_question(row) for row in rows]


def _question(row: Row) -> Question:
    return {
        "id": str(row["id"]),
        "task_id": str(row["task_id"]),
        "step_id": str(row["step_id"]),
        "step_key": row["key"],
        "text": row["text"],
        "state": row["state"],
        "answer": row["answer"],
        "asked_at": fields.time(row["asked_at"]),
        "answered_at": fields.time_or_none(row["answered_at"]),
        "answered_by": row["answered_by"],
    }
