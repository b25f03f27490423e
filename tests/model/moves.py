"""Which commands can change something in a state, and what each fault costs of an exploration's budget."""

from collections.abc import Iterator
from typing import Any

from contracts.assignments import Assignment
from contracts.errors import Failure
from contracts.outcomes import Done, Failed, Judged, Outcome, Planned, Retry, Unable
from contracts.outcomes import Question as Asks
from contracts.plans import Plan
from contracts.policy import decide
from contracts.settlements import Abandon, Settlement
from contracts.states import DeadLetterState, QuestionState, StepState
from contracts.teams import Role, Team
from contracts.verdicts import Judgement, Reason, Result, Verdict
from tests.model import commands as c
from tests.model.consequences import task_state
from tests.model.rows import Ref, Step, Task
from tests.model.transitions import assignment, claimable

BROKEN = Failure(code="agent.error", text="it broke")
STOPPED = Failure(code="worker.stopped", text="told to stop")
REASON = Reason(code="gate.wrong", where="/x", text="wrong")
PASSED = (Verdict(gate="facts", result=Result.PASS),)
REFUSED = (Verdict(gate="facts", result=Result.FAIL, reasons=(REASON,)),)
UNDECIDED = (Verdict(gate="facts", result=Result.ABSTAIN, reasons=(REASON,)),)


def good(step: Step, plan: Plan, team: Team, output: Any = 1) -> Settlement:
    """What a healthy worker settles a held step with."""
    if step.stopping:
        return Abandon()
    role = assignment(step).role
    outcome: Outcome = Done(output=output)
    if role is Role.PLANNER:
        outcome = Planned(plan=plan)
    elif role is Role.REVIEWER:
        outcome = Judged(judgement=Judgement(accepted=True))
    return decide(assignment(step), outcome, PASSED, team, 0.5)


def bad(held: Assignment, plan: Plan, team: Team, output: Any = 1) -> list[Settlement]:
    """Everything else that the policy makes of what an attempt may come to."""
    # A chance of nothing is a retry at once; the other draw is one that waits.
    found = [decide(held, Failed(failure=BROKEN), (), team, chance) for chance in (0.0, 0.5)]
    found.append(decide(held, Failed(failure=STOPPED), (), team, 0.5))
    found.append(decide(held, Retry(reason="later"), (), team, 0.5))
    found.append(decide(held, Unable(reason="no"), (), team, 0.5))
    if held.role is not Role.REVIEWER:
        found.append(decide(held, Asks(text="?"), (), team, 0.5))
    if held.role is Role.REVIEWER:
        found.append(decide(held, Judged(judgement=Judgement(accepted=False, reasons=(REASON,))), (), team, 0.5))
    elif held.role is Role.PLANNER:
        found.append(decide(held, Planned(plan=plan), REFUSED, team, 0.5))
    else:
        found.append(decide(held, Done(output=output), REFUSED, team, 0.5))
        found.append(decide(held, Done(output=output), UNDECIDED, team, 0.0))
        found.append(decide(held, Done(output=output, degraded="half"), PASSED, team, 0.5))
    return found


def refs(task: Task, step: Step) -> Ref:
    return task.ref(step)


def moves(task: Task, plan: Plan, team: Team) -> Iterator[tuple[int, c.Command]]:
    """(cost, command): all that may change this task next. A fault or a person's interference costs 1."""
    for step in task.steps:
        ref = task.ref(step)
        if claimable(step):
            yield 0, c.Claim((ref,), "w1")
        if step.lease:
            yield 0, c.Settle(((ref, good(step, plan, team)),))
            if not step.stopping:
                yield from ((1, c.Settle(((ref, other),))) for other in bad(assignment(step), plan, team))
            if step.lease == "held":
                yield 1, c.Lapse(ref)
                yield 1, c.ExpireWorker("w1")
            else:
                yield 0, c.Heartbeat((ref,))
                yield 0, c.Sweep()
        if step.due == "later":
            yield 0, c.Mature(ref)
        if step.due == "over":
            yield 0, c.Stage()
    yield from _people(task)
    for entry in task.entries:
        if not entry.published or entry.late:
            yield 0, c.Relay()
        elif not entry.late:
            yield 1, c.Outdate(task.ref(entry))


def _people(task: Task) -> Iterator[tuple[int, c.Command]]:
    for question in task.questions:
        if question.state is QuestionState.OPEN:
            yield 0, c.Answer(task.ref(question))
    for letter in task.letters:
        if letter.state is DeadLetterState.OPEN:
            yield 1, c.Redrive((task.ref(letter),))
            yield 1, c.Discard(task.ref(letter))
    if not task.stopped and task_state(task) not in ("succeeded", "failed"):
        yield 1, c.Cancel(task.name)
    if task.paused:
        yield 0, c.Resume(task.name)
    elif task_state(task) not in ("succeeded", "failed", "cancelled"):
        yield 1, c.Pause(task.name)


def late_messages(task: Task, plan: Plan, team: Team) -> Iterator[c.Command]:
    """What zombies and old messages may bring at any moment: none of it may change anything."""
    for step in task.steps:
        for epoch in range(step.epoch):
            yield c.Claim((Ref(task.name, step.key, epoch),), "w2")
        if step.lease or step.state is StepState.BLOCKED or step.state is StepState.SKIPPED:
            yield c.Claim((task.ref(step),), "w2")
    for attempt in task.attempts:
        step = task.step(attempt.key)
        if attempt.epoch == step.epoch and step.lease:
            continue
        ref = task.ref(attempt)
        yield c.Heartbeat((ref,))
        zombie = step._replace(state=_state_of(attempt.role), lease="held", stopping=False)
        yield c.Settle(((ref, good(zombie, plan, team)),))
        yield c.Settle(((ref, Abandon()),))
        yield from (c.Settle(((ref, other),)) for other in bad(assignment(zombie), plan, team)[::3])


def _state_of(role: str) -> StepState:
    return StepState.REVIEWING if role == "reviewer" else StepState.RUNNING
