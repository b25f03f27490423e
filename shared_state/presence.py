"""Worker processes as they report themselves, for people to see; and which of them a person wants to end."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from contracts.errors import Conflict, NotFound
from shared_state import transitions
from shared_state.engine import transaction
from shared_state.statements import query
from shared_state.transitions import About


@dataclass(frozen=True)
class Heard:
    """What a worker hears when it reports: how many workers take from any of the same queues, this one included; and
    who wants it to drain, if anybody does."""

    peers: int
    drain_requested_by: str | None


def report(
    engine: Engine, name: str, *, host: str, pid: int, queues: Sequence[str], slots: int, busy: int, state: str,
    first: bool = False,
) -> Heard:  # fmt: skip
    """Say that a worker lives, how many of its slots are busy, and whether it is running, draining or gone.

    `first` in a process's life: what was asked of an earlier one of the same name is not asked of this one.
    """
    with transaction(engine) as connection:
        peers = query(
            connection,
            """select count(*) as count from workers where state = 'running' and name <> %(name)s
            and seen_at > clock_timestamp() - interval '15 s' and queues ?| %(queues)s::text[]""",
            name=name, queues=list(queues),
        )  # fmt: skip
        rows = query(
            connection,
            """insert into workers (name, host, pid, queues, slots, busy, state)
            values (%(name)s, %(host)s, %(pid)s, %(queues)s::jsonb, %(slots)s, %(busy)s, %(state)s)
            on conflict (name) do update set busy = excluded.busy, state = excluded.state, pid = excluded.pid,
                slots = excluded.slots, queues = excluded.queues, seen_at = clock_timestamp(),
                drain_requested_at = case when not %(first)s::bool then workers.drain_requested_at end,
                drain_requested_by = case when not %(first)s::bool then workers.drain_requested_by end
            returning drain_requested_by""",
            name=name, host=host, pid=pid, queues=json.dumps(list(queues)), slots=slots, busy=busy, state=state,
            first=first,
        )  # fmt: skip
    return Heard(1 + int(peers[0]["count"]), rows[0]["drain_requested_by"])


def ask_to_drain(engine: Engine, name: str, actor: str) -> None:
    """The worker hears of it at its next report. Asking again is fine. Raises `NotFound`, or `Conflict` once it is
    gone."""
    with transaction(engine) as connection:
        rows = query(
            connection,
            """update workers set drain_requested_at = coalesce(drain_requested_at, clock_timestamp()),
                drain_requested_by = coalesce(drain_requested_by, %(actor)s)
            where name = %(name)s returning state""",
            name=name, actor=actor,
        )  # fmt: skip
        if not rows:
            raise NotFound(f"there is no worker {name[:100]!r}; `orchestrator workers` lists them")
        if rows[0]["state"] == "gone":
            raise Conflict(f"worker {name} is gone already")
    transitions.acted("worker.drain_asked", About(), actor, worker=name)


def mark_silent(engine: Engine, after_seconds: float) -> int:
    """Workers that have said nothing for long are gone. Returns how many."""
    with transaction(engine) as connection:
        rows = query(
            connection,
            """update workers set state = 'gone' where state <> 'gone'
            and seen_at < clock_timestamp() - make_interval(secs => %(after)s) returning name""",
            after=after_seconds,
        )
    return len(rows)
