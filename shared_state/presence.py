"""Worker processes as they report themselves: for people to see; no decision rests on it."""

import json
from collections.abc import Sequence

from sqlalchemy import Engine

from shared_state.engine import transaction
from shared_state.statements import query


def report(
    engine: Engine, name: str, *, host: str, pid: int, queues: Sequence[str], slots: int, busy: int, state: str
) -> int:
    """Say that a worker lives, how many of its slots are busy, and whether it is running, draining or gone.

    Returns how many workers take from any of the same queues, this one included.
    """
    with transaction(engine) as connection:
        peers = query(
            connection,
            """select count(*) as count from workers where state = 'running' and name <> %(name)s
            and seen_at > clock_timestamp() - interval '15 s' and queues ?| %(queues)s::text[]""",
            name=name, queues=list(queues),
        )  # fmt: skip
        query(
            connection,
            """insert into workers (name, host, pid, queues, slots, busy, state)
            values (%(name)s, %(host)s, %(pid)s, %(queues)s::jsonb, %(slots)s, %(busy)s, %(state)s)
            on conflict (name) do update set busy = excluded.busy, state = excluded.state, pid = excluded.pid,
                slots = excluded.slots, queues = excluded.queues, seen_at = clock_timestamp()""",
            name=name, host=host, pid=pid, queues=json.dumps(list(queues)), slots=slots, busy=busy, state=state,
        )  # fmt: skip
    return 1 + int(peers[0]["count"])


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
