"""W4: a worker process is killed with a hundred workflows in flight. How long until all are done, what ran twice."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tests.benchmarks.workloads import W4, Stalled, System

NAP_SECONDS = 0.2
"""Long enough that bodies are running at the kill, short enough that the kill is what is measured."""
QUIET_SECONDS = 10.0
"""Longer than lease and sweep: what has not ended by then, with nothing ending meanwhile, is lost."""


@dataclass(frozen=True)
class Recovery:
    """`lost` workflows never ended; `bodies_twice` counts the runs of a body beyond its first.

    `bodies_in_flight` ran on the killed worker; None where nobody knows.
    """

    seconds: float
    seconds_after_kill: float | None
    lost: int
    bodies_twice: int
    bodies_in_flight: int | None


def run_recovery(system: System, journal: Path, kill: Callable[[], int | None] | None) -> Recovery:
    """Submit W4's workflows at once, kill when a quarter of their bodies has begun, watch to the end.

    Without `kill` it is the undisturbed run.
    """
    workload = replace(W4, item=W4.item.model_copy(update={"nap_seconds": NAP_SECONDS, "journal": str(journal)}))
    journal.touch()
    started = time.monotonic()
    open_ids = {each for _ in range(workload.in_flight) for each in system.submit(workload, 1)}
    killed_at, in_flight = None, None
    if kill is not None:
        _wait_for_lines(journal, workload.in_flight * workload.steps // 4)
        killed_at = time.monotonic()
        in_flight = kill()
    ended_at = time.monotonic()
    while open_ids and time.monotonic() - ended_at < QUIET_SECONDS:
        ended = system.finished(open_ids)
        if ended:
            open_ids -= ended
            ended_at = time.monotonic()
        time.sleep(0.01)
    began = Counter(journal.read_text(encoding="utf-8").splitlines())
    return Recovery(
        seconds=ended_at - started,
        seconds_after_kill=ended_at - killed_at if killed_at is not None else None,
        lost=len(open_ids),
        bodies_twice=began.total() - len(began),
        bodies_in_flight=in_flight,
    )


def _wait_for_lines(journal: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while journal.read_bytes().count(b"\n") < count:
        if time.monotonic() > deadline:
            raise Stalled(f"W4: fewer than {count} bodies began within 60 s")
        time.sleep(0.005)
