"""Questions: what steps ask of people. A waiting step holds no lease, so nothing restarts or times out meanwhile."""

from uuid import UUID

from sqlalchemy import Engine

from contracts.errors import Conflict, NotFound
from shared_state import transitions
from shared_state.connection import Connection
from shared_state.crash_points import crash_point
from shared_state.engine import retrying
from shared_state.outbox import Wakeup, wakeups_of
from shared_state.statements import query, run
from shared_state.transitions import About


def answer(engine: Engine, tenant: str, question_id: UUID, text: str, actor: str) -> list[Wakeup]:
    """Answer an open question; its step goes on. `Conflict` when it was answered already or its task was cancelled."""

    def work(connection: Connection) -> tuple[list[Wakeup], About]:
        found = query(
            connection,
            """select q.task_id, s.agent from questions q join steps s on s.id = q.step_id
            where q.id = %(id)s and q.tenant_id = %(tenant)s""",
            id=question_id,
            tenant=tenant,
        )
        if not found:
            raise NotFound(f"there is no question {question_id}")
        run(connection, "lock_tasks", ids=[found[0]["task_id"]])
        rows = run(connection, "answer", id=question_id, tenant=tenant, answer=text, actor=actor)
        if not rows:
            raise Conflict("the question is not open any more: it was answered, or its task was cancelled")
        crash_point("C34")
        step_id, epoch, traceparent = (rows[0][name] for name in ("step_id", "epoch", "traceparent"))
        about = About(tenant, found[0]["task_id"], step_id, epoch, found[0]["agent"], traceparent)
        return wakeups_of(connection, rows), about

    wakeups, about = retrying(engine, work)
    crash_point("C22")
    transitions.acted("step.answered", about, actor, question_id=str(question_id))
    return wakeups
