"""Worker processes as they report themselves: for people to see; no decision rests on it."""

import json
from collections.abc import Sequence

from sqlalchemy import Engine

from shared_state.engine import transaction
from shared_state.statements import query


def report(
    engine: Engine, name: str, *, host: str, pid: int, queues: Sequence[str], slots: int, busy: int, state: str
) -> None:
    """Say that a worker lives, how many of its slots are busy, and whether it is running, draining or gone."""
    with transaction(engine) as connection:
        query(
            connection,
            """insert into workers (name, host, pid, queues, slots, busy, state)
            values (%(name)s, %(host)s, %(pid)s, %(queues)s::jsonb, %(slots)s, %(busy)s, %(state)s)
            on conflict (name) do update set busy = excluded.busy, state = excluded.state, pid = excluded.pid,
                slots = excluded.slots, queues = excluded.queues, seen_at = clock_timestamp()""",
            name=name, host=host, pid=pid, queues=json.dumps(list(queues)), slots=slots, busy=busy, state=state,
        )  # fmt: skip


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
