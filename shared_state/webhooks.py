"""What the webhook has still to be told: marks in the rows of dead letters, made with them, cleared once told.

A dead letter is told at least once: it is taken for a while, told, and marked. Whoever dies in between leaves it to be
told again. What could not be told waits twice as long each time, and is given up after `PATIENCE_SECONDS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Engine

from shared_state.engine import transaction
from shared_state.statements import query, run

PATIENCE_SECONDS = 3 * 86_400
HOLD_SECONDS = 60.0
"""How long what was taken is left to who took it: longer than a pass can last."""
TAKEN_LIMIT = 50
_BACKOFF_SECONDS = 2.0
_BACKOFF_LIMIT_SECONDS = 3600.0
_ERROR_LIMIT = 500


@dataclass(frozen=True)
class Arrival:
    """What is told of a dead letter: ids, reason and text. `count` is how often it was tried, this time included."""

    id: UUID
    tenant: str
    reason: str
    text: str
    task_id: UUID | None
    step_id: UUID | None
    step_key: str | None
    agent: str | None
    team: str | None
    queue: str | None
    created_at: datetime
    count: int


def take(engine: Engine, limit: int = TAKEN_LIMIT) -> list[Arrival]:
    """Those due now, oldest first; nobody else takes them for `HOLD_SECONDS`."""
    with transaction(engine) as connection:
        rows = run(
            connection, "webhook_take", limit=limit, hold_seconds=HOLD_SECONDS, patience_seconds=PATIENCE_SECONDS
        )
    return [
        Arrival(
            id=row["id"],
            tenant=row["tenant_id"],
            reason=row["reason"],
            text=row["text"],
            task_id=row["task_id"],
            step_id=row["step_id"],
            step_key=row["key"],
            agent=row["agent"],
            team=row["team_name"],
            queue=row["queue"],
            created_at=row["created_at"],
            count=row["webhook_count"],
        )
        for row in rows
    ]


def mark_told(engine: Engine, arrival: Arrival) -> None:
    with transaction(engine) as connection:
        query(
            connection,
            """update dead_letters set webhook_due_at = null, webhook_sent_at = clock_timestamp(), webhook_error = null
            where id = %(id)s""",
            id=arrival.id,
        )


def postpone(engine: Engine, arrivals: Sequence[Arrival], error: str) -> None:
    """They could not be told, and why; each is due again after its own pause, unless somebody told it meanwhile."""
    with transaction(engine) as connection:
        for arrival in arrivals:
            query(
                connection,
                """update dead_letters set webhook_error = %(error)s,
                    webhook_due_at = clock_timestamp() + make_interval(secs => %(seconds)s)
                where id = %(id)s and webhook_due_at is not null and webhook_count = %(count)s""",
                id=arrival.id,
                count=arrival.count,
                error=error[:_ERROR_LIMIT],
                seconds=pause_seconds(arrival.count),
            )


def give_back(engine: Engine, arrivals: Sequence[Arrival]) -> None:
    """They were taken and not tried: due again at once."""
    if not arrivals:
        return
    with transaction(engine) as connection:
        query(
            connection,
            """update dead_letters set webhook_due_at = clock_timestamp(), webhook_count = webhook_count - 1
            from unnest(%(ids)s::uuid[], %(counts)s::int[]) as given (id, count)
            where dead_letters.id = given.id and webhook_due_at is not null and webhook_count = given.count""",
            ids=[arrival.id for arrival in arrivals],
            counts=[arrival.count for arrival in arrivals],
        )


def pause_seconds(count: int) -> float:
    """How long to wait after so many tries: 2, 4, 8, ... seconds, at most an hour."""
    return float(min(_BACKOFF_LIMIT_SECONDS, _BACKOFF_SECONDS * 2.0 ** min(count - 1, 20)))
