"""What came of a row's tasks: counted from the outside (ledger, what was accepted) and in the database."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests.faults.ledger import Ledger
from tests.faults.load import Ordered
from tests.faults.staff import Kill

ENDED = ("succeeded", "failed", "cancelled")


@dataclass
class Tally:
    """Counts of one row. `recoveries` are seconds from a kill until its interrupted steps ran again, by seen or not."""

    tasks: int = 0
    lost: int = 0
    ended_otherwise: int = 0
    commits: int = 0
    double_commits: int = 0
    zombie_commits: int = 0
    expired_attempts: int = 0
    dead_letters: int = 0
    bodies: int = 0
    bodies_twice: int = 0
    recoveries_seen: list[float] = field(default_factory=list)
    recoveries_unseen: list[float] = field(default_factory=list)
    wake_delays: list[float] = field(default_factory=list)
    """Seconds from ready to the first start, of steps that were started once."""


def update_states(url: str, orders: Sequence[Ordered]) -> None:
    """Note which of the accepted tasks have ended. Raises `psycopg.Error`."""
    known = {order.task_id: order for order in orders if order.task_id is not None and order.state is None}
    sql = "select id, state from tasks where id = any(%(ids)s) and finished_at is not null"
    for row in _rows(url, sql, ids=list(known)):
        known[row["id"]].state = row["state"]


def count(url: str, orders: Sequence[Ordered], ledger: Ledger, kills: Sequence[Kill]) -> Tally:
    """After everything has come to rest."""
    update_states(url, orders)
    accepted = [order for order in orders if order.task_id is not None]
    bodies = ledger.bodies()
    tally = Tally(
        tasks=len(accepted),
        lost=sum(order.state is None for order in accepted),
        ended_otherwise=sum(order.state not in (None, order.wanted_state) for order in accepted),
        commits=_number(url, "select count(*) as n from outputs"),
        double_commits=_double_commits(url, ledger),
        zombie_commits=_number(url, _ZOMBIES),
        expired_attempts=_number(url, "select count(*) as n from attempts where state = 'expired'"),
        dead_letters=_number(url, "select count(*) as n from dead_letters"),
        bodies=bodies.total(),
        bodies_twice=bodies.total() - len(bodies),
    )
    for kill in kills:
        times = tally.recoveries_seen if kill.seen else tally.recoveries_unseen
        times.extend(
            max(0.0, row["at"] - kill.at) for row in _rows(url, _RECOVERED, worker=kill.worker, killed_at=kill.at)
        )
    tally.wake_delays = [row["seconds"] for row in _rows(url, _WOKEN)]
    return tally


_ZOMBIES = """select count(*) as n from outputs o join attempts a on a.step_id = o.step_id and a.epoch = o.epoch
    where a.state <> 'succeeded' or exists (select from attempts b
        where b.step_id = o.step_id and b.epoch > o.epoch and b.role <> 'reviewer')"""
"""Outputs accepted from an attempt that somebody had given up on, or after a later attempt had begun."""

_TWICE = """select t.id::text as task, s.key from steps s join tasks t on t.id = s.task_id
    where (select count(*) from attempts a where a.step_id = s.id and a.state = 'succeeded' and a.role <> 'reviewer'
        and s.reviewer is null) > 1
    or (select count(*) from events e where e.task_id = t.id and e.step_id = s.id and e.type = 'step.succeeded') > 1"""

_OUTPUTS = """select s.task_id::text as task, s.key, o.body ->> 'nonce' as nonce
    from outputs o join steps s on s.id = o.step_id where s.role = 'executor'"""

_RECOVERED = """select extract(epoch from n.started_at)::float8 as at
    from attempts a
    cross join lateral (select min(b.started_at) as started_at from attempts b
        where b.step_id = a.step_id and b.epoch > a.epoch) n
    where a.worker = %(worker)s and a.state = 'expired' and a.finished_at > to_timestamp(%(killed_at)s)
        and n.started_at is not null"""

_WOKEN = """select extract(epoch from a.started_at - s.ready_at)::float8 as seconds
    from steps s join attempts a on a.step_id = s.id
    where s.attempt_count = 1 and s.ready_at is not null and a.role <> 'reviewer'"""


def _double_commits(url: str, ledger: Ledger) -> int:
    """Steps of which two outputs were accepted, by what the accepted outputs are, what others saw, and the record."""
    seen = ledger.seen()
    for row in _rows(url, _OUTPUTS):
        if row["nonce"] is not None:
            seen[row["task"], row["key"]].add(row["nonce"])
    doubled = {step for step, nonces in seen.items() if len(nonces) > 1}
    doubled |= {(row["task"], row["key"]) for row in _rows(url, _TWICE)}
    return len(doubled)


def _number(url: str, sql: str) -> int:
    return int(_rows(url, sql)[0]["n"])


def _rows(url: str, sql: str, **parameters: Any) -> list[dict[str, Any]]:
    """On a connection without the product's settings, which pin plans for small transactions."""
    with psycopg.connect(url, connect_timeout=5, autocommit=True, row_factory=dict_row) as connection:
        return connection.execute(sql, parameters).fetchall()
