"""Latency under load: workflows arrive by the clock, whether the earlier ones are done or not.

A closed loop that waits for an answer before it asks again slows down together with what it measures, and so leaves out
the requests that would have waited longest (coordinated omission). Here the n-th request is due at n / rate, and its
latency counts from then, even when every client thread was busy and it was sent late.
"""

import itertools
import threading
import time
from dataclasses import dataclass
from statistics import quantiles

from tests.benchmarks.workloads import STALL_SECONDS, Stalled, System, Workload

CLIENTS = 8
LOOK_SECONDS = 0.002
"""How often ends are looked for: the resolution of the latencies."""


@dataclass(frozen=True)
class Latencies:
    """From when a workflow was due to when its end was seen. `late_ms` is how late the 99th of 100 was sent."""

    rate_per_s: float
    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    longest_ms: float
    late_ms: float


def run_open_loop(
    system: System, workload: Workload, *, rate_per_s: float, seconds: float, warmup_seconds: float
) -> Latencies:
    """Raises `Stalled` when the last ones do not end; a rate the system cannot keep shows as long latencies."""
    arrivals = _Arrivals(system, workload, rate_per_s, warmup_seconds + seconds)
    arrivals.run()
    measured = [each for each in arrivals.ended if each[0] >= warmup_seconds]
    latencies = _percentiles([seen - due for due, _, seen in measured])
    return Latencies(
        rate_per_s=rate_per_s,
        count=len(measured),
        p50_ms=latencies[49],
        p95_ms=latencies[94],
        p99_ms=latencies[98],
        longest_ms=1000 * max(seen - due for due, _, seen in measured),
        late_ms=_percentiles([sent - due for due, sent, _ in measured])[98],
    )


class _Arrivals:
    """`ended` has when each workflow was due, sent, and seen to have ended, in seconds since the start."""

    def __init__(self, system: System, workload: Workload, rate_per_s: float, seconds: float) -> None:
        self.ended: list[tuple[float, float, float]] = []
        self._system = system
        self._workload = workload
        self._rate_per_s = rate_per_s
        self._seconds = seconds
        self._numbers = itertools.count()
        self._open: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()
        self._errors: list[Exception] = []
        self._started = 0.0

    def run(self) -> None:
        clients = [threading.Thread(target=self._submit, daemon=True) for _ in range(CLIENTS)]
        self._started = time.perf_counter()
        for client in clients:
            client.start()
        while any(client.is_alive() for client in clients) or self._open:
            self._look()
            time.sleep(LOOK_SECONDS)
        if self._errors:
            raise self._errors[0]

    def _submit(self) -> None:
        try:
            while (due := next(self._numbers) / self._rate_per_s) < self._seconds:
                time.sleep(max(0.0, due - self._now()))
                sent = self._now()
                (workflow,) = self._system.submit(self._workload, 1)
                with self._lock:
                    self._open[workflow] = (due, sent)
        except Exception as error:  # carried over to the thread that watches
            self._errors.append(error)

    def _look(self) -> None:
        with self._lock:
            ids = list(self._open)
        ended = self._system.finished(ids) if ids else set()
        seen = self._now()
        with self._lock:
            self.ended += [(*self._open.pop(each), seen) for each in ended]
        if seen > self._seconds + STALL_SECONDS:
            raise Stalled(f"{self._system.name}: {len(self._open)} workflows of {self._rate_per_s:.0f}/s do not end")

    def _now(self) -> float:
        return time.perf_counter() - self._started


def _percentiles(seconds: list[float]) -> list[float]:
    """The 1st to the 99th, in milliseconds."""
    return [1000 * each for each in quantiles(seconds, n=100, method="inclusive")]
