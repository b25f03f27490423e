"""The overview: what runs, what waits and why, what is wrong; read as one, cheaply enough for every second."""

from uuid import UUID

from shared_state.connection import Connection
from shared_state.shapes import Limit, Moves, Oldest, Overview, Pause
from shared_state.statements import query, run
from shared_state.views import dead_letters, fields, installation
from shared_state.views.dead_letters import Wanted
from shared_state.views.fields import Row

OLDEST_LIMIT = 20
MOVES_LIMIT = 50_000
"""Of more moves than that between two looks only so many are counted."""


def read(connection: Connection, tenant: str, since: str | None) -> Overview:
    """`since` is the cursor of an earlier one."""
    (now,) = query(
        connection, "select clock_timestamp() as at, pg_snapshot_xmin(pg_current_snapshot())::text as cursor"
    )
    return {
        "at": fields.time(now["at"]),
        "cursor": now["cursor"],
        "tasks": _open_tasks(connection, tenant),
        "queues": installation.queues(connection, tenant),
        "moves": None if since is None else _moves(connection, tenant, since, now["cursor"]),
        "workers": [each for each in installation.workers(connection) if each["state"] != "gone"],
        "oldest": [_oldest(row) for row in run(connection, "view_oldest", tenant=tenant, limit=OLDEST_LIMIT)],
        "dead_letters": dead_letters.counts(connection, tenant, Wanted(state="open")),
        "pauses": pauses(connection, tenant),
        "limits": limits(connection, tenant),
    }


def pauses(connection: Connection, tenant: str, task_id: UUID | None = None) -> list[Pause]:
    """All of the tenant's, or those that concern one task: its own, and those of its team and the team's agents."""
    return [_pause(row) for row in run(connection, "view_pauses", tenant=tenant, task_id=task_id)]


def limits(connection: Connection, tenant: str) -> list[Limit]:
    return [
        {
            "team": row["team_name"],
            "agent": row["agent"],
            "concurrency": row["concurrency"],
            "running": row["running"],
            "held": row["held"],
        }
        for row in run(connection, "view_limits", tenant=tenant)
    ]


def _pause(row: Row) -> Pause:
    return {
        "task_id": fields.id_or_none(row["task_id"]),
        "team": row["team_name"] or row["task_team"],
        "agent": row["agent"],
        "reason": row["reason"],
        "paused_by": row["set_by"],
        "paused_at": fields.time(row["set_at"]),
        "held": row["held"],
    }


def _open_tasks(connection: Connection, tenant: str) -> dict[str, int]:
    rows = query(
        connection,
        """select state, count(*) as count from tasks where tenant_id = %(tenant)s and finished_at is null
        group by state""",
        tenant=tenant,
    )
    return {row["state"]: row["count"] for row in rows}


def _moves(connection: Connection, tenant: str, since: str, until: str) -> list[Moves]:
    rows = run(connection, "view_moves", tenant=tenant, since=since, until=until, limit=MOVES_LIMIT)
    return [{"queue": row["queue"], "begun": row["begun"], "failed": row["failed"]} for row in rows]


def _oldest(row: Row) -> Oldest:
    return {
        "step_id": str(row["step_id"]),
        "task_id": str(row["task_id"]),
        "team": row["team_name"],
        "key": row["key"],
        "agent": row["agent"],
        "state": row["state"],
        "worker": row["worker"],
        "since": fields.time(row["since"]),
    }
