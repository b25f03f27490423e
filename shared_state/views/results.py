"""Results: what a task that has ended came to."""

from uuid import UUID

from contracts.errors import Conflict
from contracts.states import TASK_TERMINAL
from shared_state.connection import Connection
from shared_state.shapes import Result
from shared_state.statements import query, run
from shared_state.views import fields, tasks


def read(connection: Connection, tenant: str, task_id: UUID) -> Result:
    """What the task came to. Raises `Conflict` while it is not finished."""
    rows = query(
        connection,
        "select team_name, state, degraded, error from tasks where id = %(id)s and tenant_id = %(tenant)s",
        id=task_id,
        tenant=tenant,
    )
    if not rows:
        raise tasks.unknown(task_id)
    head = rows[0]
    if head["state"] not in TASK_TERMINAL:
        raise Conflict(f"the task is {head['state']}: it has no result yet; wait for it to end")
    leaves = run(connection, "view_leaves", id=task_id, tenant=tenant)
    return {
        "task_id": str(task_id),
        "team": head["team_name"],
        "state": head["state"],
        "degraded": head["degraded"],
        "error": fields.error(head["error"]),
        "outputs": {row["key"]: row["body"] for row in leaves if row["accepted"]},
        "missing": {row["key"]: row["state"] for row in leaves if not row["accepted"]},
    }
