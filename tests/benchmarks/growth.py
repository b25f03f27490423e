"""One plan of ten thousand steps: is the last quarter of it as fast as the first?"""

import time
from dataclasses import dataclass

from tests.benchmarks.ours import Ours
from tests.benchmarks.workloads import W1, Stalled


@dataclass(frozen=True)
class Growth:
    """`steps_per_s` counts from when the plan was accepted, `steps_per_s_in_all` from when it was submitted."""

    steps: int
    accept_seconds: float
    seconds: float
    steps_per_s: float
    steps_per_s_in_all: float
    rate_last_to_first: float


def run_plan(ours: Ours, steps: int, *, limit_seconds: float) -> Growth:
    """Submit, wait, and read the rates off the times at which the steps ended."""
    submitted = time.time()  # as the database tells the time, on this one machine
    started = time.monotonic()
    task_id = ours.submit_plan(W1, steps)
    accepted = time.monotonic()
    while not ours.finished([task_id]):
        if time.monotonic() - started > limit_seconds:
            raise Stalled(f"ours: a plan of {steps} steps did not end within {limit_seconds:g} s")
        time.sleep(0.05)
    ended = time.monotonic()
    times = ours.finish_times(task_id)
    # Both in seconds: the less, the faster.
    quarter = steps // 4
    first = times[quarter] - times[0]
    last = times[-1] - times[-1 - quarter]
    return Growth(
        steps=steps,
        accept_seconds=accepted - started,
        seconds=ended - started,
        steps_per_s=steps / (ended - accepted),
        steps_per_s_in_all=steps / (times[-1] - submitted),
        # A small plan can end in one transaction, at one time.
        rate_last_to_first=first / last if last else 1.0,
    )
