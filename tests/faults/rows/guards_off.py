"""The ablation: rows again, each with the guard off that it is meant to prove. They must fail."""

from dataclasses import replace

from tests.faults.row import Row
from tests.faults.rows import broker_emptied, messages_abused, workers_frozen, workers_killed


def _without(guard: str, rows: tuple[Row, ...], name: str) -> Row:
    """What is lost then never comes to rest: no need to wait long for it."""
    row = next(row for row in rows if row.name == name)
    return replace(row, ablation=guard, seconds=15.0, shortest=min(row.shortest, 15.0), rest_seconds=20.0)


ROWS = (
    _without("fence", workers_frozen.ROWS, "F03"),
    _without("outbox", broker_emptied.ROWS, "F11"),
    _without("sweeper", workers_killed.ROWS, "F01-unseen"),
    _without("claim", messages_abused.ROWS, "F16"),
)
