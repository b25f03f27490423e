"""What a worker process counts: how long steps wait, run, are checked and written, and what attempts came to.

Everything is counted once, when an attempt has been settled, by the thread that settled it: a few microseconds a step.
"""

from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from contracts.settlements import Approve, Bury, Return
from contracts.verdicts import Result
from shared_state.attempts import Settling
from shared_state.metrics import Names, code_label
from workers.durations import Duration, Durations
from workers.slots import Slots

BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
"""Seconds: from a function in a thread to a model agent that works for half an hour."""
REVIEW = "review"
"""The gate under which what reviewers say is counted."""


class _Phases(NamedTuple):
    """The histograms of one agent."""

    queue: Duration
    run: Duration
    gate: Duration
    commit: Duration


class WorkerMetrics:
    """`registry` may be null: then everything is counted and nothing shown."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry
        self._agents, self._gates = Names(), Names()
        self._seconds = Durations(
            "orchestrator_step_seconds",
            "What a step's time went to: waiting in its queue, its agent's run, its gates, its commit.",
            ["agent", "phase"],
            BUCKETS,
        )
        if registry is not None:
            registry.register(self._seconds)
        self._attempts = Counter(
            "orchestrator_attempts",
            "Settled attempts: accepted, proposed, approved, returned (retries and refusals, by code), buried, asked.",
            ["agent", "settlement", "code"],
            registry=registry,
        )
        self._verdicts = Counter(
            "orchestrator_verdicts",
            "What gates said of outputs; `review` is what reviewers said.",
            ["gate", "result"],
            registry=registry,
        )
        self._stale = Counter(
            "orchestrator_attempts_stale", "Attempts whose step had moved on when they ended.", registry=registry
        )
        calls = ["agent", "model"]
        self._models = Names()
        self._calls = Counter(
            "orchestrator_model_calls", "Calls to models, by how they ended.", [*calls, "ending"], registry=registry
        )
        self._call_seconds = Histogram(
            "orchestrator_model_call_seconds", "How long calls to models take.", calls, buckets=BUCKETS,
            registry=registry,
        )  # fmt: skip
        self._tokens = Counter(
            "orchestrator_model_tokens", "Tokens sent to models and received.", [*calls, "direction"], registry=registry
        )
        self._phases_of: dict[str, _Phases] = {}
        self._attempts_of: dict[tuple[str, str, str], Counter] = {}
        self._verdicts_of: dict[tuple[str, str], Counter] = {}

    def watch(self, slots: Slots, count: int) -> None:
        """Show how many of this process's slots are busy."""
        Gauge("orchestrator_worker_slots", "Steps this process may run at once.", registry=self._registry).set(count)
        busy = Gauge("orchestrator_worker_slots_busy", "Steps this process runs.", registry=self._registry)
        busy.set_function(lambda: count - slots.free)

    def settled(self, settling: Settling, commit_seconds: float, *, done: bool) -> None:
        """Called by one thread at a time. `done` is false where somebody else had moved on."""
        if not done:
            self._stale.inc()
            return
        assignment, settlement = settling.assignment, settling.settlement
        verdicts = getattr(settlement, "verdicts", ())
        phases = self._phases_of.get(assignment.agent) or self._begin(assignment.agent)
        phases.queue.note(assignment.waited_seconds)
        if settling.record.seconds is not None:
            phases.run.note(settling.record.seconds)
        if verdicts:
            phases.gate.note(sum(verdict.seconds for verdict in verdicts))
        phases.commit.note(commit_seconds)
        code = settlement.failure.code if isinstance(settlement, Return | Bury) else ""
        self._count_attempt(assignment.agent, settlement.type, code)
        for verdict in verdicts:
            self._count_verdict(verdict.gate, verdict.result)
        if isinstance(settlement, Approve):
            self._count_verdict(REVIEW, Result.PASS)
        elif code == "review.rejected":
            self._count_verdict(REVIEW, Result.FAIL)

    def called(
        self, agent: str, model: str, ending: str, *, seconds: float, input_tokens: int, output_tokens: int
    ) -> None:
        """One call to a model has ended. `ending` is one of a closed list."""
        labels = self._agents.label(agent), self._models.label(model)
        self._calls.labels(*labels, ending).inc()
        self._call_seconds.labels(*labels).observe(seconds)
        self._tokens.labels(*labels, "input").inc(input_tokens)
        self._tokens.labels(*labels, "output").inc(output_tokens)

    def _begin(self, agent: str) -> _Phases:
        label = self._agents.label(agent)
        phases = _Phases(*(self._seconds.of(label, phase) for phase in _Phases._fields))
        self._phases_of[label] = phases
        return phases

    def _count_attempt(self, agent: str, settlement: str, code: str) -> None:
        key = (agent, settlement, code)
        counter = self._attempts_of.get(key)
        if counter is None:
            label = code_label(code) if code else ""
            counter = self._attempts.labels(self._agents.label(agent), settlement, label)
            if agent == self._agents.label(agent) and code == label:
                self._attempts_of[key] = counter
        counter.inc()

    def _count_verdict(self, gate: str, result: Result) -> None:
        counter = self._verdicts_of.get((gate, result))
        if counter is None:
            label = self._gates.label(gate)
            for each in Result:  # a rate of passes needs the zero as well
                self._verdicts_of[label, each] = self._verdicts.labels(label, each.value)
            counter = self._verdicts_of[label, result]
        counter.inc()
