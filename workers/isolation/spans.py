"""The span of an attempt's own process; what the process is told as its context, so that agents' code can join."""

from collections.abc import Callable

from contracts.assignments import Assignment
from contracts.outcomes import Failed
from contracts.teams import Agent
from shared_state.telemetry import Tracing, note, note_failure, traceparent_of
from workers.isolation.ran import Ran


def in_process(tracing: Tracing, agent: Agent, assignment: Assignment, run: Callable[[Assignment], Ran]) -> Ran:
    """`run` must not raise."""
    span = tracing.begin(f"process {agent.kind}", assignment.traceparent, {"orchestrator.agent": assignment.agent})
    ran = run(assignment.model_copy(update={"traceparent": traceparent_of(span)}))
    note(span, {"orchestrator.process.peak_memory_bytes": ran.peak_memory_bytes})
    if isinstance(ran.outcome, Failed):
        note_failure(span, ran.outcome.failure.code)
    span.end()
    return ran
