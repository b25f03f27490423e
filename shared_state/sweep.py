"""Recovery: what a lapsed lease or a passed deadline means, decided by the same rules and written on the same path."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Engine

from contracts.assignments import Assignment
from contracts.errors import Failure
from contracts.policy import decide_failure
from contracts.settlements import Abandon, Settlement
from shared_state.attempts import Settled, Settling, assignment_of, settle
from shared_state.connection import Connection
from shared_state.crash_points import crash_point
from shared_state.engine import retrying
from shared_state.outbox import Wakeup, wake_relay
from shared_state.statements import query, run
from shared_state.tasks import cancel_overdue
from shared_state.teams import load_team

_UNPUBLISH_ALL = """update outbox set published_at = null, publish_count = 0 where step_id = any (array(
    select step_id from outbox where published_at is not null for update skip locked))"""
"""What somebody claims at this moment is not waited for: the claim holds its step, and steps come first."""


def sweep(engine: Engine, *, limit: int = 200) -> tuple[int, list[Wakeup]]:
    """Recover lapsed leases and end overdue tasks. Returns how many leases were recovered, and what to publish."""
    settled = retrying(engine, lambda connection: _sweep_leases(connection, limit))
    crash_point("C31", when=settled.done)
    cancel_overdue(engine)
    return len(settled.done), settled.wakeups


def expire_worker(engine: Engine, worker: str, *, dead: bool = True) -> list[Wakeup]:
    """Recover at once what a worker process held that is known to be gone; returns what to publish."""

    def work(connection: Connection) -> Settled:
        query(
            connection,
            """update steps set lease_until = clock_timestamp() - interval '1 millisecond'
            where worker = %(worker)s and lease_until is not null""",
            worker=worker,
        )
        _publish_again(connection)
        if dead:
            query(connection, "update workers set state = 'gone' where name = %(worker)s", worker=worker)
        rows = [row for row in run(connection, "expired", limit=1000) if row["worker"] == worker]
        return _settle(connection, rows, "worker.died")

    return retrying(engine, work).wakeups


def _sweep_leases(connection: Connection, limit: int) -> Settled:
    rows = run(connection, "expired", limit=limit)
    if rows:
        _publish_again(connection)
        crash_point("C18")
    return _settle(connection, rows, "lease.expired")


def _publish_again(connection: Connection) -> None:
    """Messages that a worker had received and not yet claimed go with it; nobody knows which. So whatever is out
    unclaimed is published again, and the claim drops the duplicates."""
    query(connection, _UNPUBLISH_ALL)
    wake_relay(connection)


def _settle(connection: Connection, rows: Sequence[Mapping[str, Any]], code: str) -> Settled:
    """Settle attempts whose leases have lapsed."""
    settlings = [
        Settling(assignment, _decide(connection, assignment, row, code))
        for row in rows
        for assignment in (assignment_of(row),)
    ]
    return settle(connection, settlings) if settlings else Settled(frozenset(), [])


def _decide(connection: Connection, assignment: Assignment, row: Mapping[str, Any], code: str) -> Settlement:
    if row["cancelled"]:
        return Abandon(expired=True)
    text = {
        "lease.expired": f"worker {row['worker']} did not answer in time",
        "worker.died": f"worker {row['worker']} ended while it held the step",
    }[code]
    team = load_team(connection, assignment.tenant, assignment.team_digest)
    return decide_failure(assignment, Failure(code=code, text=text), team, random.random(), expired=True)
