"""Run one loop for ever: a pass, then wait until woken or due. Errors are logged, never fatal."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from contracts.errors import Unavailable
from orchestrator.loops.metrics import LoopMetrics

log = structlog.get_logger("loops")


@dataclass(frozen=True)
class Loop:
    """`pass_once` returns whether it found work, in which case the next pass follows after `busy_seconds`."""

    name: str
    pass_once: Callable[[], bool]
    every_seconds: float
    busy_seconds: float = 0.02


def run_loop(loop: Loop, stop: threading.Event, wake: threading.Event, metrics: LoopMetrics) -> None:
    """Until `stop` is set. `wake` starts the next pass early; whoever sets `stop` sets it afterwards."""
    failures = 0
    while True:
        wake.clear()
        # Asked after the clearing: otherwise an end that comes between the two would be waited for until the next pass.
        if stop.is_set():
            return
        began = time.monotonic()
        try:
            found = loop.pass_once()
            failures = 0
        except Unavailable as error:
            found, failures = False, failures + 1
            log.warning("loop.unavailable", loop=loop.name, text=error.text)
        except Exception:  # the edge of a loop: one bad pass must not end recovery for everyone
            found, failures = False, failures + 1
            log.exception("loop.failed", loop=loop.name)
        metrics.passed(loop.name, time.monotonic() - began, ended_well=not failures)
        if found:
            stop.wait(loop.busy_seconds)
        elif failures:
            stop.wait(min(10.0, 0.2 * 2.0 ** min(failures, 6)) * random.uniform(0.5, 1.0))
        else:
            # Jitter keeps several instances from sweeping at the same moments.
            wake.wait(loop.every_seconds * random.uniform(0.8, 1.0))
