"""A database that comes out of a backup: everything after the backup has not happened, yet somebody may remember it.

A worker cut off by the disaster may still hold attempts of that lost future, and their tokens (a step's id and epoch)
could come up again: the restored step counts its epochs on from the backup. So every open step leaps ahead, further
than any lost future came, and leases of the time of the backup are over at once, without counting against their
steps. Messages of the lost future name epochs that are not reached again, and are dropped by the claim.

Events are read in the order of transactions. A new server counts those from the beginning, and the events of the old
one would lie in its future: they become older than anything that comes.
"""

from dataclasses import dataclass

from sqlalchemy import Engine

from contracts.assignments import Assignment
from contracts.errors import Failure
from contracts.settlements import Abandon, Return, Settlement
from contracts.teams import Role
from shared_state.attempts import Settling, assignment_of, settle
from shared_state.connection import Connection
from shared_state.engine import retrying, transaction
from shared_state.statements import query, run
from shared_state.verify import limit_time

LEAP = 1_000_000
"""Attempts that no step has had between a backup and its loss."""
_BATCH = 500
_SECONDS = 1800.0


@dataclass(frozen=True)
class Restored:
    """What was changed: leases ended, open steps moved ahead, events moved into the past."""

    leases: int
    steps: int
    events: int


def make_current(engine: Engine) -> Restored:
    """To be called once after a restore, before any part is started. Doing it again does no harm."""
    leases = 0
    while ended := retrying(engine, _end_leases):
        leases += ended
    with transaction(engine) as connection:
        limit_time(connection, _SECONDS)
        steps = query(connection, _count(_LEAP_STEPS), leap=LEAP)[0]["count"]
        query(connection, _LEAP_ENTRIES, leap=LEAP)
        events = query(connection, _count(_AGE_EVENTS))[0]["count"]
        query(connection, "update workers set state = 'gone' where state <> 'gone'")
    return Restored(leases, steps, events)


_LEAP_STEPS = "update steps set epoch = epoch + %(leap)s where finished_at is null returning 1"
_LEAP_ENTRIES = "update outbox set epoch = epoch + %(leap)s, published_at = null, publish_count = 0"
# 3 is the oldest number a transaction can have; among themselves the events keep the order of their ids.
_AGE_EVENTS = """update events set xid = '3'
    where exists (select from events where xid >= pg_snapshot_xmin(pg_current_snapshot())) returning 1"""


def _count(changing: str) -> str:
    return f"with changed as ({changing}) select count(*)::int as count from changed"


def _end_leases(connection: Connection) -> int:
    """As if each worker had been told to stop and had handed back what it held."""
    query(
        connection,
        """update steps set lease_until = clock_timestamp() - interval '1 second'
        where id = any (array(select step_id from attempts where state = 'running'))
            and lease_until > clock_timestamp() - interval '1 second'""",
    )
    rows = run(connection, "expired", limit=_BATCH)
    settlings = [
        Settling(assignment, _handed_back(assignment, row["cancelled"]))
        for row in rows
        for assignment in (assignment_of(row),)
    ]
    return len(settle(connection, settlings).done) if settlings else 0


def _handed_back(assignment: Assignment, cancelled: bool) -> Settlement:
    if cancelled:
        return Abandon(expired=True)
    failure = Failure(code="worker.stopped", text="the database was restored from a backup")
    return Return(
        to="reviewing" if assignment.role is Role.REVIEWER else "ready", failure=failure, counted=False, expired=True
    )
