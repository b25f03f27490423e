"""Tasks, with their steps counted by state."""

from collections.abc import Sequence
from uuid import UUID

from contracts.errors import NotFound
from shared_state.connection import Connection
from shared_state.shapes import Task, TaskDetail, Usage
from shared_state.statements import query, run
from shared_state.telemetry import trace_id_of
from shared_state.views import fields, overview
from shared_state.views.fields import Row


def read(connection: Connection, tenant: str, task_id: UUID) -> TaskDetail:
    rows = run(connection, "view_task", id=task_id, tenant=tenant)
    if not rows:
        raise unknown(task_id)
    return {
        **_task(rows[0]),
        "input": rows[0]["input"],
        "pauses": overview.pauses(connection, tenant, task_id),
        "trace_id": trace_id_of(rows[0]["traceparent"]),
    }


def page(
    connection: Connection,
    tenant: str,
    *,
    limit: int,
    before: UUID | None = None,
    states: Sequence[str] = (),
    team: str | None = None,
    label: tuple[str, str] | None = None,
) -> list[Task]:
    """Newest first; `before` is the last id of the previous page."""
    rows = run(
        connection,
        "view_tasks",
        tenant=tenant,
        before=before,
        states=list(states) or None,
        team=team,
        label=label[0] if label else None,
        value=label[1] if label else None,
        limit=limit,
    )
    return [_task(row) for row in rows]


def require(connection: Connection, tenant: str, task_id: UUID) -> None:
    """Raises `NotFound` unless this tenant has the task."""
    if not query(connection, "select 1 from tasks where id = %(id)s and tenant_id = %(t)s", id=task_id, t=tenant):
        raise unknown(task_id)


def unknown(task_id: UUID) -> NotFound:
    return NotFound(f"there is no task {task_id}; `orchestrator tasks` lists yours")


def _task(row: Row) -> Task:
    return {
        "id": str(row["id"]),
        "team": row["team_name"],
        "team_digest": row["team_digest"],
        "state": row["state"],
        "degraded": row["degraded"],
        "goal": row["goal"],
        "labels": row["labels"],
        "step_count": row["step_count"],
        "step_counts": row["step_counts"],
        "usage": _usage(row),
        "error": fields.error(row["error"]),
        "forked_from": row["forked_from"],
        "created_at": fields.time(row["created_at"]),
        "deadline_at": fields.time_or_none(row["deadline_at"]),
        "cancel_requested_at": fields.time_or_none(row["cancel_requested_at"]),
        "finished_at": fields.time_or_none(row["finished_at"]),
    }


def _usage(row: Row) -> Usage:
    """All calls to models, also those whose attempts came to nothing. What they cost is not known in this version."""
    return {
        "model_calls": row["model_calls"],
        "input_tokens": row["input_tokens"],
        "output_tokens": row["output_tokens"],
        "cost_usd": None,
    }
