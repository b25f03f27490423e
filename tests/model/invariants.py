"""What must hold in every state of the model, and of every move from one state to the next."""

from collections import Counter
from collections.abc import Iterator

from contracts.states import ATTEMPT_MOVES, STEP_MOVES, TASK_MOVES, AttemptState, QuestionState, StepState, TaskState
from tests.model.consequences import doomed, needs_left, settled, task_state
from tests.model.rows import OPEN_STEPS, Attempt, Step, Task

STARTED = frozenset({StepState.READY, StepState.RUNNING, StepState.REVIEWING, StepState.WAITING, StepState.SUCCEEDED})


def wrong(task: Task) -> list[str]:
    """What is wrong with one state, in words; empty when nothing is."""
    return [*_wrong_task(task), *(text for step in task.steps for text in _wrong_step(task, step))]


def wrong_move(before: Task, after: Task) -> list[str]:
    """What must not have happened between two states; empty when all of it may."""
    return list(_wrong_move(before, after))


def _wrong_task(task: Task) -> Iterator[str]:
    if any(count > 1 for count in Counter(output.key for output in task.outputs).values()):
        yield "a step has two accepted outputs"
    accepted = {(output.key, output.epoch) for output in task.outputs}
    given = {(attempt.key, need) for attempt in task.attempts for need in attempt.inputs}
    if not {need for _, need in given} <= accepted:
        yield "an attempt was given what nobody accepted"
    if task.stopped and any(step.state is StepState.READY for step in task.steps):
        yield "a step of a cancelled task is ready"
    if task.stopped and (task.entries or any(q.state is QuestionState.OPEN for q in task.questions)):
        yield "a cancelled task still sends or asks for something"


def _wrong_step(task: Task, step: Step) -> Iterator[str]:
    yield from _wrong_attempts(step, [attempt for attempt in task.attempts if attempt.key == step.key], task)
    yield from _wrong_entry(task, step)
    letters = sum(letter.key == step.key and letter.state == "open" for letter in task.letters)
    if letters != (step.state is StepState.DEAD):
        yield f"{step.key} is {step.state} with {letters} open dead letters"
    asked = sum(question.key == step.key and question.state == "open" for question in task.questions)
    if asked != (step.state is StepState.WAITING):
        yield f"{step.key} is {step.state} with {asked} open questions"
    pending = sum(each.key == step.key and each.state == "pending" for each in task.proposals)
    if pending != (step.state is StepState.REVIEWING):
        yield f"{step.key} is {step.state} with {pending} pending proposals"
    if (step.state is StepState.SKIPPED) != (step.key in doomed(task)) and step.state not in (
        StepState.CANCELLED,
        StepState.SUCCEEDED,
    ):
        yield f"{step.key} is {step.state}, doomed or not"
    if step.state is StepState.BLOCKED and needs_left(task, step) == 0:
        yield f"{step.key} waits for nothing"


def _wrong_attempts(step: Step, attempts: list[Attempt], task: Task) -> Iterator[str]:
    running = [attempt.epoch for attempt in attempts if attempt.state is AttemptState.RUNNING]
    if running != ([step.epoch] if step.lease else []):
        yield f"{step.key} at epoch {step.epoch}, lease {step.lease}, has running attempts {running}"
    if (step.state is StepState.RUNNING) > (step.lease is not None):
        yield f"{step.key} runs without a lease"
    if any(attempt.epoch > step.epoch for attempt in attempts):
        yield f"{step.key} has an attempt from the future"
    output = task.output(step.key)
    if (output is not None) != (step.state is StepState.SUCCEEDED):
        yield f"{step.key} is {step.state}, its output is {output}"
    if output is None:
        return
    made = [attempt for attempt in attempts if attempt.epoch == output.epoch]
    if [attempt.state for attempt in made] != [AttemptState.SUCCEEDED] or made[0].role == "reviewer":
        yield f"the output of {step.key} is not what a successful attempt made"
    if any(attempt.epoch > output.epoch and attempt.role != "reviewer" for attempt in attempts):
        yield f"the output of {step.key} was accepted though a later attempt had begun"
    judged = [attempt for attempt in attempts if attempt.epoch > output.epoch and attempt.state == "succeeded"]
    if step.reviewer and not judged:
        yield f"the output of {step.key} was accepted without a review"


def _wrong_entry(task: Task, step: Step) -> Iterator[str]:
    claimable = step.state is StepState.READY or (step.state is StepState.REVIEWING and step.lease is None)
    entries = [entry.epoch for entry in task.entries if entry.key == step.key]
    if entries != ([step.epoch] if claimable and step.due is None else []):
        yield f"{step.key} is {step.state} at epoch {step.epoch}, due {step.due}, with queue entries {entries}"
    if step.due and not claimable:
        yield f"{step.key} is {step.state} and still due"


def _wrong_move(before: Task, after: Task) -> Iterator[str]:
    moved = (task_state(before), task_state(after))
    if moved[0] != moved[1] and moved[1] not in TASK_MOVES[moved[0]]:
        yield f"the task moved from {moved[0]} to {moved[1]}"
    for old in before.steps:
        new = after.step(old.key)
        if new.state is not old.state and new.state not in STEP_MOVES[old.state]:
            yield f"{old.key} moved from {old.state} to {new.state}"
        if new.epoch < old.epoch:
            yield f"{old.key} went back from epoch {old.epoch} to {new.epoch}"
        entered = new.state is not old.state and new.state in STARTED and old.state not in STARTED - {StepState.WAITING}
        if entered and not all(settled(after.step(need)) or _was_given_up(before, need) for need in new.needs):
            yield f"{old.key} started before what it needs"
        if before.stopped and new.state is StepState.SUCCEEDED and old.state is not StepState.SUCCEEDED:
            yield f"{old.key} was accepted after the cancel"
    if before.paused and after.paused and len(after.attempts) > len(before.attempts):
        yield "an attempt began while the task was paused"
    states = {(attempt.key, attempt.epoch): attempt.state for attempt in after.attempts}
    for attempt in before.attempts:
        state = states.get((attempt.key, attempt.epoch))
        if state is None or (state is not attempt.state and state not in ATTEMPT_MOVES[attempt.state]):
            yield f"attempt {attempt.key}@{attempt.epoch} moved from {attempt.state} to {state}"
    if not set(before.outputs) <= set(after.outputs):
        yield "an accepted output was changed"
    if before.stopped and len(after.steps) > len(before.steps):
        yield "the task grew after the cancel"
    closed = {(letter.key, letter.epoch) for letter in before.letters if letter.state != "open"}
    if closed & {(letter.key, letter.epoch) for letter in after.letters if letter.state == "open"}:
        yield "a closed dead letter is open again"


def _was_given_up(task: Task, key: str) -> bool:
    """An optional need that was dead once and is being redriven: who needs it has gone on without it."""
    return task.step(key).optional and any(letter.key == key for letter in task.letters)


def is_over(task: Task) -> bool:
    """Nothing is left for the system to do: ended, or waiting for a person."""
    open_states = {step.state for step in task.steps if step.state in OPEN_STEPS - {StepState.BLOCKED}}
    return task_state(task) in (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED) or open_states == {
        StepState.WAITING
    }
