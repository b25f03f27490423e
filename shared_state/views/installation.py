"""The installation: the workers that run, and the queues they serve."""

from contracts.topology import QUEUE_OF_ROLE
from shared_state.connection import Connection
from shared_state.shapes import Queue, Worker
from shared_state.statements import query, run
from shared_state.views import fields


def workers(connection: Connection) -> list[Worker]:
    """Those that run now, and those that went within the last hour."""
    rows = query(
        connection,
        """
        select * from workers where state <> 'gone' or seen_at > clock_timestamp() - interval '1 hour'
        order by state = 'gone', name
        """,
    )
    return [
        {
            "name": row["name"],
            "host": row["host"],
            "pid": row["pid"],
            "queues": row["queues"],
            "slots": row["slots"],
            "busy": row["busy"],
            "state": row["state"],
            "started_at": fields.time(row["started_at"]),
            "seen_at": fields.time(row["seen_at"]),
            "drain_requested_at": fields.time_or_none(row["drain_requested_at"]),
            "drain_requested_by": row["drain_requested_by"],
        }
        for row in rows
    ]


def queues(connection: Connection, tenant: str) -> list[Queue]:
    """Every queue that a role has, a worker serves or a step of this tenant is on. `depth` is left null."""
    rows = run(connection, "view_queues", tenant=tenant, known=list(QUEUE_OF_ROLE.values()))
    return [
        {
            "queue": row["queue"],
            "waiting": row["waiting"],
            "published": row["published"],
            "republished": row["republished"],
            "running": row["running"],
            "paused": row["paused"],
            "limited": row["limited"],
            "oldest_seconds": row["oldest_seconds"],
            "worker_count": row["worker_count"],
            "depth": None,
        }
        for row in rows
    ]
