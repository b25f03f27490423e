"""What the logs say of an attempt's way and of what people do: one line a transition, worded here and nowhere else.

A step that ends well is told at debug only: a line for every step would cost as much as half of its run, and a task's
events tell its story. What comes back is told at info with its code, what is given up at warning.

What people do is told at info once it is committed, where it changed something; what they write (reasons, answers,
inputs) never is.
"""

import logging
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import structlog

from contracts.assignments import Assignment
from contracts.settlements import Bury, Return
from shared_state.attempts import Settling
from shared_state.telemetry import trace_id_of

log = structlog.get_logger("transitions")

Act = Literal[
    "task.cancelling",
    "task.forked",
    "task.paused",
    "task.resumed",
    "team.paused",
    "team.resumed",
    "step.answered",
    "step.edited",
    "step.redriven",
    "step.discarded",
    "message.redriven",
    "message.discarded",
    "worker.drain_asked",
]
"""What people do, in the words of events where there is one. A message is a dead letter's bytes that never were one."""


@dataclass(frozen=True)
class About:
    """What an act is about. Null is what it does not have: a step where it is a task's, a task where it is a team's."""

    tenant: str | None = None
    task_id: UUID | None = None
    step_id: UUID | None = None
    epoch: int | None = None
    agent: str | None = None
    traceparent: str | None = None


def settled(settling: Settling) -> None:
    """A settlement was written."""
    match settling.settlement:
        case Bury() as settlement:
            log.warning("attempt.buried", code=settlement.failure.code, **_names(settling.assignment))
        case Return() as settlement:
            event = "attempt.refused" if settlement.rejected else "attempt.returned"
            later = round(settlement.after_seconds, 3)
            log.info(event, code=settlement.failure.code, after_seconds=later, **_names(settling.assignment))
        case settlement:
            if log.is_enabled_for(logging.DEBUG):
                log.debug("attempt.settled", outcome=settlement.type, **_names(settling.assignment))


def stale(settling: Settling) -> None:
    """A settlement found its step moved on."""
    log.info("attempt.stale", outcome=settling.settlement.type, **_names(settling.assignment))


def lost(assignment: Assignment) -> None:
    """Its lease could not be kept, so that its result is nobody's any more."""
    log.warning("attempt.lost", **_names(assignment))


def not_stored(assignment: Assignment, error: Exception) -> None:
    """Postgres refused the result itself; the error's own text would quote it."""
    log.error(
        "settle.refused",
        error=type(error).__name__,
        sqlstate=getattr(error, "sqlstate", None),
        **_names(assignment),
    )


def broken(assignment: Assignment) -> None:
    """An exception of ours ended its delivery; to be called where it is handled. The lease recovers the step."""
    log.exception("attempt.broken", **_names(assignment))


def recovered(count: int) -> None:
    """So many lapsed leases in one pass; a line of its own for each attempt stands above."""
    log.warning("lease.recovered", count=count)


def acted(act: Act, about: About, actor: str, **ids: str | list[str] | None) -> None:
    """Somebody did this, and it is committed. `ids` name what else it is about; nulls are left out."""
    names = {
        "tenant": about.tenant,
        "task_id": None if about.task_id is None else str(about.task_id),
        "step_id": None if about.step_id is None else str(about.step_id),
        "epoch": about.epoch,
        "agent": about.agent,
        "trace_id": trace_id_of(about.traceparent),
        **ids,
    }
    log.info(act, actor=actor, **{name: value for name, value in names.items() if value is not None})


def _names(assignment: Assignment) -> dict[str, Any]:
    trace_id = trace_id_of(assignment.traceparent)
    return {
        "tenant": assignment.tenant,
        "task_id": str(assignment.task_id),
        "step_id": str(assignment.step_id),
        "epoch": assignment.epoch,
        "attempt": assignment.attempt,
        "agent": assignment.agent,
        **({} if trace_id is None else {"trace_id": trace_id}),
    }
