"""What follows from the states of a task's steps. Nothing here is kept in a row: it is computed from them."""

from contracts.states import StepState, TaskState
from contracts.topology import MessageKind
from tests.model.rows import GIVEN_UP, OPEN_STEPS, Entry, Letter, Ref, Step, Task


def settled(step: Step) -> bool:
    """Whether it no longer holds up those that need it: it succeeded, or was optional and is given up."""
    return step.state is StepState.SUCCEEDED or (step.optional and step.state in GIVEN_UP)


def needs_left(task: Task, step: Step) -> int:
    return sum(not settled(task.step(need)) for need in step.needs)


def doomed(task: Task) -> frozenset[str]:
    """The steps that need, directly or through others, a required step that is given up."""
    found: set[str] = set()
    causes = {step.key for step in task.steps if step.state in GIVEN_UP and not step.optional}
    while True:
        more = {step.key for step in task.steps if step.key not in found and (found | causes) & set(step.needs)}
        if not more:
            return frozenset(found)
        found |= more


def task_state(task: Task) -> TaskState:
    is_open = any(step.state in OPEN_STEPS for step in task.steps)
    if task.stopped is not None:
        return TaskState.CANCELLING if is_open else TaskState.CANCELLED
    if not is_open:
        return (
            TaskState.FAILED if any(s.state in GIVEN_UP and not s.optional for s in task.steps) else TaskState.SUCCEEDED
        )
    if any(step.state is StepState.WAITING for step in task.steps):
        return TaskState.WAITING
    return TaskState.RUNNING if task.planned else TaskState.PLANNING


def is_degraded(task: Task) -> bool:
    return any(step.degraded or (step.optional and step.state in GIVEN_UP | {StepState.SKIPPED}) for step in task.steps)


def blamed(task: Task) -> frozenset[tuple[str, str]]:
    """(reason, step) that a failed task may name: of the first letters of required steps that are still given up."""
    letters = [each for each in task.letters if each.state != "redriven" and _is_required(task, each)]
    first = min((letter.turn for letter in letters), default=0)
    return frozenset((letter.reason, letter.key) for letter in letters if letter.turn == first)


def follow(task: Task) -> tuple[Task, frozenset[Ref]]:
    """Skip what can no longer run, unskip what can again, make ready what waits for nothing. What to send, too."""
    lost = doomed(task)
    for step in task.steps:
        if step.state is StepState.BLOCKED and step.key in lost:
            task = task.with_step(step._replace(state=StepState.SKIPPED))
        if step.state is StepState.SKIPPED and step.key not in lost:
            task = task.with_step(step._replace(state=StepState.BLOCKED))
    sent: set[Ref] = set()
    for step in task.steps:
        if step.state is StepState.BLOCKED and needs_left(task, step) == 0:
            task, ref = enqueue(task, step._replace(state=StepState.READY, epoch=step.epoch + 1))
            sent.add(ref)
    return task, frozenset(sent)


def enqueue(task: Task, step: Step, *, published: bool = True) -> tuple[Task, Ref]:
    """Write a step that became claimable, with its queue entry."""
    entry = Entry(step.key, step.epoch, _kind(step), published)
    entries = tuple(each for each in task.entries if each.key != step.key)
    task = task.with_step(step)._replace(entries=tuple(sorted((*entries, entry))))
    return task, task.ref(step)


def _kind(step: Step) -> MessageKind:
    if step.state is StepState.REVIEWING:
        return MessageKind.REVIEW
    return MessageKind.PLAN if step.agent == "lead" else MessageKind.EXECUTE


def _is_required(task: Task, letter: Letter) -> bool:
    step = task.step(letter.key)
    return step.state in GIVEN_UP and not step.optional
