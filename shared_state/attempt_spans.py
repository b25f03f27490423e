"""The span of an attempt: begun by the worker that claimed it, ended by whoever settles it.

Its id follows from the attempt's own (step and epoch). So the sweeper, which settles what a dead worker has left, ends
the very span that the worker began and never could send: what had it as its parent is no orphan.
"""

import hashlib

from opentelemetry.trace import INVALID_SPAN_CONTEXT, Span, SpanContext

from contracts.assignments import Assignment
from contracts.settlements import Bury, Return
from shared_state.attempts import Settling
from shared_state.telemetry import Tracing, note, note_failure


def begin_attempt(
    tracing: Tracing,
    assignment: Assignment,
    *,
    link: SpanContext = INVALID_SPAN_CONTEXT,
    began_at: float | None = None,
) -> Span:
    """A child of what its task was submitted in. `link` is the delivery that brought it; `began_at` a Unix time."""
    return tracing.begin(
        f"{assignment.role} {assignment.agent}",
        assignment.traceparent,
        {
            "orchestrator.tenant": assignment.tenant,
            "orchestrator.task_id": str(assignment.task_id),
            "orchestrator.step_id": str(assignment.step_id),
            "orchestrator.step_key": assignment.key,
            "orchestrator.epoch": assignment.epoch,
            "orchestrator.attempt": assignment.attempt,
            "orchestrator.agent": assignment.agent,
            "orchestrator.role": assignment.role.value,
        },
        link=link,
        span_id=_span_id(assignment),
        began_at=began_at,
    )


def end_attempt(span: Span, settling: Settling) -> None:
    """Called once its settlement was written."""
    settlement = settling.settlement
    note(
        span,
        {"orchestrator.outcome": settlement.type, "orchestrator.code_hash": settling.record.code_hash},
    )
    if isinstance(settlement, Return | Bury):
        note(span, {"orchestrator.code": settlement.failure.code})
        if isinstance(settlement, Bury) or not settlement.rejected:
            note_failure(span, settlement.failure.code)
    span.end()


def _span_id(assignment: Assignment) -> int:
    name = f"{assignment.step_id} {assignment.epoch}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) or 1
