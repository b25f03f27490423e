"""The history of one step: its attempts, what they proposed, its place on a queue, its events."""

from uuid import UUID

from shared_state.connection import Connection
from shared_state.shapes import Attempt, Event, Held, Proposal, QueueEntry
from shared_state.statements import query
from shared_state.views import fields

_EVENTS_LIMIT = 500


def attempts(connection: Connection, step_id: UUID, *, detailed: bool) -> list[Attempt]:
    """Oldest first. `detailed` adds error details and log tails."""
    rows = query(connection, "select * from attempts where step_id = %(id)s order by epoch", id=step_id)
    return [
        {
            "epoch": row["epoch"],
            "attempt": row["attempt"],
            "role": row["role"],
            "agent": row["agent"],
            "worker": row["worker"],
            "state": row["state"],
            "started_at": fields.time(row["started_at"]),
            "finished_at": fields.time_or_none(row["finished_at"]),
            "seconds": row["seconds"],
            "error": fields.error(row["error"], detailed=detailed),
            "verdicts": row["verdicts"],
            "progress": row["progress"],
            "log_tail": row["log_tail"] if detailed else None,
            "code_hash": row["code_hash"],
        }
        for row in rows
    ]


def proposals(connection: Connection, step_id: UUID) -> list[Proposal]:
    """Oldest first, whatever became of them."""
    rows = query(connection, "select * from proposals where step_id = %(id)s order by epoch", id=step_id)
    return [
        {
            "epoch": row["epoch"],
            "state": row["state"],
            "body": row["body"],
            "degraded": row["degraded"],
            "created_at": fields.time(row["created_at"]),
        }
        for row in rows
    ]


def queue_entry(connection: Connection, step_id: UUID) -> QueueEntry | None:
    """The step's outbox row; None when it does not wait for a worker."""
    rows = query(connection, "select * from outbox where step_id = %(id)s", id=step_id)
    if not rows:
        return None
    row = rows[0]
    return {
        "kind": row["kind"],
        "queue": row["queue"],
        "epoch": row["epoch"],
        "created_at": fields.time(row["created_at"]),
        "published_at": fields.time_or_none(row["published_at"]),
        "publish_count": row["publish_count"],
    }


def held(connection: Connection, step_id: UUID) -> Held | None:
    """Why it may not begin, if a rule that is in force holds it."""
    rows = query(
        connection,
        """select case r.concurrency when 0 then 'pause' else 'limit' end as by, k.parked_at from parked k
        join rules r on r.id = k.rule_id and r.ended_at is null where k.step_id = %(id)s""",
        id=step_id,
    )
    return {"by": rows[0]["by"], "since": fields.time(rows[0]["parked_at"])} if rows else None


def events(connection: Connection, task_id: UUID, step_id: UUID, key: str) -> list[Event]:
    """The step's first 500 events, oldest first. `key` is the step's."""
    rows = query(
        connection,
        """
        select xid::text as xid, id, type, epoch, data, at from events
        where task_id = %(task)s and step_id = %(step)s order by xid, id limit %(limit)s
        """,
        task=task_id,
        step=step_id,
        limit=_EVENTS_LIMIT,
    )
    return [
        {
            "cursor": f"{row['xid']}-{row['id']}",
            "type": row["type"],
            "step_id": str(step_id),
            "step_key": key,
            "epoch": row["epoch"],
            "data": row["data"],
            "at": fields.time(row["at"]),
        }
        for row in rows
    ]
