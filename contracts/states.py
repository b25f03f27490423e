"""States of tasks, steps and attempts, and the moves between them that are legal, as data."""

from collections.abc import Mapping
from enum import StrEnum


class TaskState(StrEnum):
    PLANNING = "planning"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


class StepState(StrEnum):
    BLOCKED = "blocked"
    READY = "ready"
    RUNNING = "running"
    REVIEWING = "reviewing"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DEAD = "dead"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


class AttemptState(StrEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STALE = "stale"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    WAITING = "waiting"


class DeadLetterState(StrEnum):
    OPEN = "open"
    REDRIVEN = "redriven"
    DISCARDED = "discarded"


class QuestionState(StrEnum):
    OPEN = "open"
    ANSWERED = "answered"
    CANCELLED = "cancelled"


TASK_MOVES: Mapping[TaskState, frozenset[TaskState]] = {
    TaskState.PLANNING: frozenset(
        {TaskState.RUNNING, TaskState.WAITING, TaskState.FAILED, TaskState.CANCELLING, TaskState.CANCELLED}
    ),
    TaskState.RUNNING: frozenset(
        {TaskState.WAITING, TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLING, TaskState.CANCELLED}
    ),
    TaskState.WAITING: frozenset(
        {
            TaskState.PLANNING,
            TaskState.RUNNING,
            TaskState.SUCCEEDED,
            TaskState.FAILED,
            TaskState.CANCELLING,
            TaskState.CANCELLED,
        }
    ),
    TaskState.CANCELLING: frozenset({TaskState.CANCELLED}),
    # A redrive reopens a task that ended because of a dead step.
    TaskState.FAILED: frozenset({TaskState.PLANNING, TaskState.RUNNING}),
    TaskState.SUCCEEDED: frozenset({TaskState.RUNNING}),
    TaskState.CANCELLED: frozenset(),
}

STEP_MOVES: Mapping[StepState, frozenset[StepState]] = {
    StepState.BLOCKED: frozenset({StepState.READY, StepState.CANCELLED, StepState.SKIPPED}),
    StepState.READY: frozenset({StepState.RUNNING, StepState.CANCELLED}),
    StepState.RUNNING: frozenset(
        {
            StepState.SUCCEEDED,
            StepState.REVIEWING,
            StepState.WAITING,
            StepState.READY,
            StepState.DEAD,
            StepState.CANCELLED,
        }
    ),
    StepState.REVIEWING: frozenset(
        {StepState.REVIEWING, StepState.SUCCEEDED, StepState.READY, StepState.DEAD, StepState.CANCELLED}
    ),
    StepState.WAITING: frozenset({StepState.READY, StepState.CANCELLED}),
    StepState.DEAD: frozenset({StepState.READY, StepState.FAILED}),
    StepState.SKIPPED: frozenset({StepState.BLOCKED}),
    StepState.SUCCEEDED: frozenset(),
    StepState.FAILED: frozenset(),
    StepState.CANCELLED: frozenset(),
}

ATTEMPT_MOVES: Mapping[AttemptState, frozenset[AttemptState]] = {
    AttemptState.RUNNING: frozenset(
        {
            AttemptState.SUCCEEDED,
            AttemptState.FAILED,
            AttemptState.STALE,
            AttemptState.EXPIRED,
            AttemptState.CANCELLED,
            AttemptState.WAITING,
        }
    ),
    AttemptState.SUCCEEDED: frozenset(),
    AttemptState.FAILED: frozenset(),
    AttemptState.STALE: frozenset(),
    AttemptState.EXPIRED: frozenset(),
    AttemptState.CANCELLED: frozenset(),
    AttemptState.WAITING: frozenset(),
}

TASK_TERMINAL = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED})
STEP_TERMINAL = frozenset(
    {StepState.SUCCEEDED, StepState.FAILED, StepState.DEAD, StepState.CANCELLED, StepState.SKIPPED}
)
