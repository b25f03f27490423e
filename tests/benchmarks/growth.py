"""One plan of ten thousand steps: is the last quarter of it as fast as the first?"""

import time
from dataclasses import dataclass

from tests.benchmarks.ours import Ours
from tests.benchmarks.workloads import W1, Stalled


@dataclass(frozen=True)
class Growth:
    steps: int
    accept_seconds: float
    seconds: float
    steps_per_s: float
    rate_last_to_first: float


def run_plan(ours: Ours, steps: int, *, limit_seconds: float) -> Growth:
    """Submit, wait, and read the rates off the times at which the steps ended."""
    started = time.monotonic()
    task_id = ours.submit_plan(W1, steps)
    accepted = time.monotonic()
    while not ours.finished([task_id]):
        if time.monotonic() - started > limit_seconds:
            raise Stalled(f"ours: a plan of {steps} steps did not end within {limit_seconds:g} s")
        time.sleep(0.05)
    ended = time.monotonic()
    times = ours.finish_times(task_id)
    quarter = steps // 4
    first = quarter / (times[quarter] - times[0])
    last = quarter / (times[-1] - times[-1 - quarter])
    return Growth(
        steps=steps,
        accept_seconds=accepted - started,
        seconds=ended - started,
        steps_per_s=steps / (ended - accepted),
        rate_last_to_first=last / first,
    )
