"""What the loops tell of themselves: when each has last done its round, what it mended, what the inspector found.

A loop that stands still shows by its time of the last pass; one whose process is gone by having none.
"""

from collections import Counter as Tally

from prometheus_client import CollectorRegistry, Counter, Gauge, Summary

from shared_state.inspection import VIOLATION_LIMIT, Inspection
from shared_state.outbox import RelayPass
from shared_state.verify import invariants


class LoopMetrics:
    """Safe to use from several threads. `registry` may be null: then nothing is shown."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._last_pass = Gauge(
            "orchestrator_loop_last_pass_timestamp_seconds",
            "When the loop last ended a pass without an error.",
            ["loop"],
            registry=registry,
        )
        self._seconds = Summary("orchestrator_loop_pass_seconds", "How long passes take.", ["loop"], registry=registry)
        self._failures = Counter(
            "orchestrator_loop_failures", "Passes that ended with an error.", ["loop"], registry=registry
        )
        self.recovered = Counter(
            "orchestrator_leases_recovered", "Steps taken from workers that did not answer.", registry=registry
        )
        self._dispatched = Counter(
            "orchestrator_entries_dispatched", "Queue entries published by the relay.", registry=registry
        )
        self._republished = Counter(
            "orchestrator_entries_republished", "Queue entries published again: nobody had claimed them.",
            registry=registry,
        )  # fmt: skip
        self._violations = Gauge(
            "orchestrator_invariant_violations",
            f"Rows that broke the invariant at the last look, up to {VIOLATION_LIMIT}.",
            ["invariant", "kind"],
            registry=registry,
        )
        self._unchecked = Gauge(
            "orchestrator_invariants_unchecked", "Invariants the last look had no time for.", registry=registry
        )

    def passed(self, loop: str, seconds: float, *, ended_well: bool) -> None:
        self._seconds.labels(loop).observe(seconds)
        failures = self._failures.labels(loop)
        if ended_well:
            self._last_pass.labels(loop).set_to_current_time()
        else:
            failures.inc()

    def relayed(self, done: RelayPass) -> None:
        self._dispatched.inc(done.dispatched)
        self._republished.inc(done.republished)

    def inspected(self, inspection: Inspection | None) -> None:
        """Null when another process is the one that inspects: then what this one found long ago is no news."""
        if inspection is None:
            self._violations.clear()
            return
        found = Tally(violation.invariant for violation in inspection.violations)
        for each in invariants():
            if each.name not in inspection.unchecked:
                self._violations.labels(each.name, each.kind).set(found[each.name])
        self._unchecked.set(len(inspection.unchecked))
