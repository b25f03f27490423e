"""Recovery: what a lapsed lease or a passed deadline means, decided by the same rules and written on the same path."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from contracts.assignments import Assignment
from contracts.errors import Failure
from contracts.policy import decide_failure
from contracts.settlements import Abandon, Settlement
from shared_state import transitions
from shared_state.attempt_spans import begin_attempt, end_attempt
from shared_state.attempts import Settled, Settling, assignment_of, settle
from shared_state.connection import Connection
from shared_state.crash_points import crash_point
from shared_state.engine import retrying
from shared_state.outbox import Wakeup, wake_relay
from shared_state.statements import query, run
from shared_state.tasks import cancel_overdue
from shared_state.teams import load_team
from shared_state.telemetry import Tracing

_UNPUBLISH_ALL = """update outbox set published_at = null, publish_count = 0 where step_id = any (array(
    select step_id from outbox where published_at is not null for update skip locked))"""
"""What somebody claims at this moment is not waited for: the claim holds its step, and steps come first."""


@dataclass(frozen=True)
class _Lapsed:
    """An attempt whose lease has lapsed, and what becomes of it. `began_at` is a Unix time."""

    settling: Settling
    began_at: float


@dataclass(frozen=True)
class _Swept:
    settled: Settled
    lapsed: list[_Lapsed]


def sweep(engine: Engine, *, limit: int = 200, tracing: Tracing | None = None) -> tuple[int, list[Wakeup]]:
    """Recover lapsed leases and end overdue tasks. Returns how many leases were recovered, and what to publish."""
    rows = _lapsed_now(engine, limit)
    swept = _Swept(Settled(frozenset(), []), [])
    if rows:
        swept = retrying(engine, lambda connection: _sweep_leases(connection, rows))
    crash_point("C31", when=swept.settled.done)
    _tell(swept, tracing)
    cancel_overdue(engine)
    return len(swept.settled.done), swept.settled.wakeups


LAPSE = """update steps set lease_until = clock_timestamp() - interval '1 millisecond'
    where id = any (array(select step_id from attempts where state = 'running'))
        and worker = %(worker)s and lease_until is not null"""


def expire_worker(engine: Engine, worker: str, *, dead: bool = True, tracing: Tracing | None = None) -> list[Wakeup]:
    """Recover at once what a worker process held that is known to be gone; returns what to publish."""

    def lapse(connection: Connection) -> None:
        query(connection, LAPSE, worker=worker)
        _publish_again(connection)
        if dead:
            query(connection, "update workers set state = 'gone' where name = %(worker)s", worker=worker)

    retrying(engine, lapse)
    rows = [row for row in _lapsed_now(engine, 1000) if row["worker"] == worker]
    swept = retrying(engine, lambda connection: _settle(connection, rows, "worker.died"))
    _tell(swept, tracing)
    return swept.settled.wakeups


def _lapsed_now(engine: Engine, limit: int) -> Sequence[Mapping[str, Any]]:
    """In a transaction of its own, which lets go of the rows again: settling locks tasks first, then steps."""
    return retrying(engine, lambda connection: run(connection, "expired", limit=limit))


def _sweep_leases(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> _Swept:
    _publish_again(connection)
    crash_point("C18")
    return _settle(connection, rows, "lease.expired")


def _publish_again(connection: Connection) -> None:
    """Messages that a worker had received and not yet claimed go with it; nobody knows which. So whatever is out
    unclaimed is published again, and the claim drops the duplicates."""
    query(connection, _UNPUBLISH_ALL)
    wake_relay(connection)


def _settle(connection: Connection, rows: Sequence[Mapping[str, Any]], code: str) -> _Swept:
    """Settle attempts whose leases have lapsed."""
    lapsed = [
        _Lapsed(Settling(assignment, _decide(connection, assignment, row, code)), row["began_at"])
        for row in rows
        for assignment in (assignment_of(row),)
    ]
    settled = settle(connection, [each.settling for each in lapsed]) if lapsed else Settled(frozenset(), [])
    return _Swept(settled, lapsed)


def _tell(swept: _Swept, tracing: Tracing | None) -> None:
    """What the attempts' own workers cannot tell any more."""
    for each in swept.lapsed:
        if each.settling.key not in swept.settled.done:
            continue
        transitions.settled(each.settling)
        if tracing is not None:
            end_attempt(begin_attempt(tracing, each.settling.assignment, began_at=each.began_at), each.settling)


def _decide(connection: Connection, assignment: Assignment, row: Mapping[str, Any], code: str) -> Settlement:
    if row["cancelled"]:
        return Abandon(expired=True)
    text = {
        "lease.expired": f"worker {row['worker']} did not answer in time",
        "worker.died": f"worker {row['worker']} ended while it held the step",
    }[code]
    team = load_team(connection, assignment.tenant, assignment.team_digest)
    return decide_failure(assignment, Failure(code=code, text=text), team, random.random(), expired=True)
