"""The whole installation in figures, of all tenants: what no single process knows. Read by index, in one transaction.

Its cost grows with what is open (ready steps, running attempts, open tasks and dead letters), never with the history.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from contracts.errors import CODES
from shared_state.engine import transaction
from shared_state.statements import send

COUNT_LIMIT = 100_000
"""Of more ready steps or open tasks than this only so many are looked at one by one; queues are counted whole."""
MESSAGE_REASONS = tuple(code for code in CODES if code.startswith("message."))

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class InstallationFigures:
    """Rows as the statements of the same names give them (`sql/metrics_*.sql`)."""

    queues: Rows
    steps: Rows
    overdue: dict[str, Any]
    dead_letters: Rows
    tasks: Rows
    workers: Rows
    database: dict[str, Any]


def read(engine: Engine) -> InstallationFigures:
    """Raises `Unavailable`. `engine` must not be bound to a tenant."""
    with transaction(engine) as connection:
        queues = send(connection, "metrics_queues")
        steps = send(connection, "metrics_steps", limit=COUNT_LIMIT)
        overdue = send(connection, "metrics_overdue")
        dead_letters = send(connection, "metrics_dead_letters", message_reasons=list(MESSAGE_REASONS))
        tasks = send(connection, "metrics_tasks", limit=COUNT_LIMIT)
        workers = send(connection, "metrics_workers")
        database = send(connection, "metrics_database")
        return InstallationFigures(
            queues=queues.rows(),
            steps=steps.rows(),
            overdue=overdue.rows()[0],
            dead_letters=dead_letters.rows(),
            tasks=tasks.rows(),
            workers=workers.rows(),
            database=database.rows()[0],
        )
