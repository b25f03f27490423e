"""How far one Postgres, one broker, one core carries: computed from what a step was measured to cost."""

from collections.abc import Sequence

from tests.benchmarks.figures import OURS, Figures
from tests.benchmarks.sheet import Sheet

COMMITS_ALONE, COMMITS_GROUPED = 4_170, 16_362
"""Durable single-row commits a second of the machine the limits were measured on: one client, sixteen."""
LOG_BYTES = 100e6
"""A second: what an ordinary network disk or a replication link takes."""
BROKER_TRIPS = 100_000
"""A second: what one Redis is commonly quoted for; a Python client reaches less, so clients are full before it."""


def limits(figures: Figures) -> Sheet:
    """For each resource: at how many steps a second one of it is full."""
    sheet = Sheet(
        "What fills up first: steps/s at which one of each is full",
        (
            "",
            "worker core",
            "Postgres core",
            "commits, 1 client",
            "commits, 16 clients",
            "log at 100 MB/s",
            "one Redis",
        ),
        names=1,
        note="Each is the resource alone, everything else being free.",
    )
    for workload, side in figures.sides(having="round_trips_per_step"):
        if side == OURS:
            sheet.add(workload, *(_steps(each) for each in _limits(figures, workload)))
    return sheet


def _limits(figures: Figures, workload: str) -> Sequence[float | None]:
    workers, postgres = (
        figures.middle(workload, OURS, "cpu_seconds_per_1000_steps", name) for name in ("workers", "postgres")
    )
    commits = figures.middle(workload, OURS, "commits_per_step")
    log = figures.middle(workload, OURS, "bytes_per_step", "wal")
    trips = figures.middle(workload, OURS, "round_trips_per_step", "redis")
    return (
        _divided(1000, workers),
        _divided(1000, postgres),
        _divided(COMMITS_ALONE, commits),
        _divided(COMMITS_GROUPED, commits),
        _divided(LOG_BYTES, log),
        _divided(BROKER_TRIPS, trips),
    )


def _divided(most: float, each: float | None) -> float | None:
    return most / each if each else None


def _steps(value: float | None) -> str:
    """Two digits: more would pretend to know."""
    return "" if value is None else f"{float(f'{value:.2g}'):,.0f}"
