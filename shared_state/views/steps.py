"""Steps: those of a task, and everything about one."""

from collections.abc import Sequence
from uuid import UUID

from contracts.errors import NotFound
from shared_state.connection import Connection
from shared_state.shapes import Step, StepDetail
from shared_state.statements import query, run
from shared_state.telemetry import trace_id_of
from shared_state.views import dead_letters, fields, history, model_calls, questions, tasks
from shared_state.views.fields import Row


def page(
    connection: Connection,
    tenant: str,
    task_id: UUID,
    *,
    limit: int,
    after: tuple[int, str] | None = None,
    states: Sequence[str] = (),
) -> list[Step]:
    """By rank (0 needs nothing) and key; `after` is the rank and key of the previous page's last."""
    tasks.require(connection, tenant, task_id)
    rows = run(
        connection,
        "view_steps",
        id=task_id,
        tenant=tenant,
        rank=after[0] if after else None,
        key=after[1] if after else None,
        states=list(states) or None,
        limit=limit,
    )
    return [_step(row) for row in rows]


def read(connection: Connection, tenant: str, step_id: UUID, *, detailed: bool) -> StepDetail:
    """Everything about one step. `detailed` adds what is for operators only: error details and log tails."""
    rows = run(connection, "view_step", id=step_id, tenant=tenant)
    if not rows:
        raise NotFound(f"there is no step {step_id}; `orchestrator steps TASK` lists a task's")
    row = rows[0]
    return {
        **_step(row),
        "input": row["input"],
        "output": row["output"],
        "accepted_at": fields.time_or_none(row["accepted_at"]),
        "feedback": row["feedback"],
        "needs": _needs(connection, step_id),
        "attempts": history.attempts(connection, step_id, detailed=detailed),
        "proposals": history.proposals(connection, step_id),
        "questions": questions.of_step(connection, step_id),
        "model_calls": model_calls.of_step(connection, tenant, step_id),
        "dead_letters": dead_letters.of_step(connection, tenant, step_id),
        "message": history.queue_entry(connection, step_id),
        "held": history.held(connection, step_id),
        "events": history.events(connection, row["task_id"], step_id, row["key"]),
        "trace_id": trace_id_of(row["traceparent"]),
    }


def _step(row: Row) -> Step:
    return {
        "id": str(row["id"]),
        "task_id": str(row["task_id"]),
        "key": row["key"],
        "role": row["role"],
        "agent": row["agent"],
        "reviewer": row["reviewer"],
        "queue": row["queue"],
        "state": row["state"],
        "optional": row["optional"],
        "degraded": row["degraded"],
        "shared_from": fields.id_or_none(row["shared_from"]),
        "rank": row["rank"],
        "epoch": row["epoch"],
        "attempt_count": row["attempt_count"],
        "rejection_count": row["rejection_count"],
        "question_count": row["question_count"],
        "worker": row["worker"],
        "due_at": fields.time_or_none(row["due_at"]),
        "created_at": fields.time(row["created_at"]),
        "ready_at": fields.time_or_none(row["ready_at"]),
        "finished_at": fields.time_or_none(row["finished_at"]),
    }


def _needs(connection: Connection, step_id: UUID) -> list[str]:
    rows = query(
        connection,
        "select n.key from dependencies d join steps n on n.id = d.needs_id where d.step_id = %(id)s order by n.key",
        id=step_id,
    )
    return [row["key"] for row in rows]
