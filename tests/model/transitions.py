"""The transitions: `apply` one command to a world. A command that comes too late changes nothing."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, NamedTuple, assert_never

from contracts.assignments import Assignment
from contracts.errors import Failure
from contracts.plans import Plan
from contracts.policy import decide_failure
from contracts.settlements import Abandon, Accept, AcceptPlan, Approve, Ask, Bury, Propose, Return, Settlement
from contracts.states import AttemptState, DeadLetterState, QuestionState, StepState, TaskState
from contracts.teams import Role, Team
from tests.model import commands as c
from tests.model.consequences import enqueue, follow, task_state
from tests.model.rows import (
    OPEN_STEPS,
    Attempt,
    Entry,
    Letter,
    Output,
    Proposal,
    Question,
    Ref,
    Step,
    Task,
    World,
    find,
)  # fmt: skip

ROOT = "@plan"


class Effect(NamedTuple):
    """What a command came to: which refs were won, what was sent, and which error people were told."""

    done: frozenset[Ref] = frozenset()
    sent: frozenset[Ref] = frozenset()
    refused: Literal["Conflict", "NotFound"] | None = None


class Refused(Exception):
    """Nothing is written, and the caller is told."""

    def __init__(self, kind: Literal["Conflict", "NotFound"]) -> None:
        super().__init__(kind)
        self.kind: Literal["Conflict", "NotFound"] = kind


Apply = Callable[[World, c.Command, Team], tuple[World, Effect]]


def apply(world: World, command: c.Command, team: Team) -> tuple[World, Effect]:
    """The world after a command, and what the one who gave it is told. `team` has the retry rules and bounds."""
    try:
        return _apply(world, command, team)
    except Refused as refusal:
        return world, Effect(refused=refusal.kind)


def _apply(world: World, command: c.Command, team: Team) -> tuple[World, Effect]:
    match command:
        case c.Submit():
            task, sent = follow(_submitted(command, team))
            return (*world, task), Effect(sent=sent)
        case c.Claim(refs=refs, worker=worker):
            if any(_is_held(task, ref) for task in world for ref in refs):
                world = tuple(_park(task, refs) if task.paused else task for task in world)
            return _on_refs(world, refs, lambda task, ref: _claim(task, ref, worker))
        case c.Settle(items=items):
            settlements = dict(items)
            return _on_refs(world, tuple(settlements), lambda task, ref: _settle(task, ref, settlements[ref], team))
        case c.Heartbeat(refs=refs):
            return _on_refs(world, refs, _extend)
        case c.Sweep():
            if any(step.lease == "lapsed" for task in world for step in task.steps):
                world = tuple(_unpublish_all(task) for task in world)
            world, effect = _on_steps(world, lambda task, step: _sweep(task, step, team, "lease.expired"))
            overdue = tuple(task.deadline == "passed" and _is_live(task) and not task.stopped for task in world)
            return tuple(_stop(t, "task.deadline") if o else t for t, o in zip(world, overdue, strict=True)), effect
        case c.ExpireWorker(worker=worker):
            world = tuple(_unpublish_all(_lapse_all(task, worker)) for task in world)
            return _on_steps(
                world, lambda task, step: _sweep(task, step, team, "worker.died") if step.worker == worker else None
            )
        case c.Relay(broker_up=broker_up):
            return _relay(world, broker_up)
        case c.Stage():
            return _on_steps(world, _stage)
        case c.Redrive(letters=letters, edit=edit):
            return _redrive(world, letters, edit)
        case c.Cancel(task=name):
            return _on_task(world, name, lambda task: (_cancel(task), Effect()))
        case c.Pause(task=name):
            return _on_task(world, name, lambda task: (_pause(task), Effect()))
        case c.Resume(task=name):
            return _on_task(world, name, lambda task: (task._replace(paused=False), Effect()))
        case c.Discard(letter=ref):
            return _on_task(world, ref.task, lambda task: (_discard(task, ref), Effect()))
        case c.Answer(question=ref):
            return _on_task(world, ref.task, lambda task: _answer(task, ref))
        case c.Prune(task=name):
            left = tuple(task for task in world if task.name != name or not _is_prunable(task))
            return tuple(task if _is_live(task) else task._replace(paused=False) for task in left), Effect()
        case c.Lapse() | c.Mature() | c.Outdate() | c.PassDeadline():
            return tuple(_pass_time(task, command) for task in world), Effect()
        case _:
            assert_never(command)


# --- people -----------------------------------------------------------------------------------------------------------


def _submitted(command: c.Submit, team: Team) -> Task:
    deadline: Any = "ahead" if command.deadline else None
    if command.plan is None:
        return Task(command.task, planner=True, planned=False, steps=(Step(ROOT, agent="lead"),), deadline=deadline)
    return Task(command.task, steps=_steps_of(command.plan, team), deadline=deadline)


def _steps_of(plan: Plan, team: Team) -> tuple[Step, ...]:
    return tuple(Step(s.id, s.agent, s.needs, s.optional, s.review or team.agents[s.agent].review) for s in plan.steps)


def _cancel(task: Task) -> Task:
    state = task_state(task)
    if state in (TaskState.SUCCEEDED, TaskState.FAILED):
        raise Refused("Conflict")
    return task if task.stopped else _stop(task, "task.cancelled")


def _stop(task: Task, code: Literal["task.cancelled", "task.deadline"]) -> Task:
    """What nobody holds is cancelled; what a worker holds is flagged; nobody is asked or sent for anything more."""
    for step in task.steps:
        if step.state in OPEN_STEPS:
            state = step.state if step.lease else StepState.CANCELLED
            task = task.with_step(step._replace(stopping=True, due=None, state=state))
            if not step.lease:
                task = _refuse_pending(task, step.key)
    questions = tuple(
        q._replace(state=QuestionState.CANCELLED) if q.state is QuestionState.OPEN else q for q in task.questions
    )
    return task._replace(stopped=code, entries=(), questions=questions)


def _pause(task: Task) -> Task:
    if not _is_live(task):
        raise Refused("Conflict")
    return task._replace(paused=True)


def _park(task: Task, refs: tuple[Ref, ...]) -> Task:
    """The entries of all that a message names, in time or late, once one of them is held back."""
    named = {ref.key for ref in refs if ref.task == task.name}
    return task._replace(entries=tuple(_parked(entry) if entry.key in named else entry for entry in task.entries))


def _is_held(task: Task, ref: Ref) -> bool:
    return task.paused and any(claimable(step) and task.ref(step) == ref for step in task.steps)


def _parked(entry: Entry) -> Entry:
    return entry._replace(parked=True, published=False, late=False)


def _redrive(world: World, refs: tuple[Ref, ...], edit: int) -> tuple[World, Effect]:
    """All or nothing where one is not to be had; one that is closed already is left alone."""
    for ref in refs:
        task = find(world, ref.task)
        if task is None or _letter(task, ref) is None:
            raise Refused("NotFound")
        if task.stopped:
            raise Refused("Conflict")
    return _on_refs(world, refs, lambda task, ref: _revive(task, ref, edit))


def _revive(task: Task, ref: Ref, edit: int) -> tuple[Task, frozenset[Ref]] | None:
    letter = _letter(task, ref)
    if letter is None or letter.state is not DeadLetterState.OPEN:
        return None
    step = task.step(ref.key)
    task = _close_letter(task, letter, DeadLetterState.REDRIVEN)
    if task.deadline == "passed":  # whoever redrives wants the task to run
        task = task._replace(deadline=None)
    ready = step._replace(
        state=StepState.READY, epoch=step.epoch + 1, attempts=0, rejections=0, questions=0, edit=edit or step.edit
    )
    task, sent = enqueue(task, ready)
    return task, frozenset({sent})


def _discard(task: Task, ref: Ref) -> Task:
    letter = _letter(task, ref)
    if letter is None:
        raise Refused("NotFound")
    if letter.state is not DeadLetterState.OPEN:
        raise Refused("Conflict")
    task = _close_letter(task, letter, DeadLetterState.DISCARDED)
    return task.with_step(task.step(ref.key)._replace(state=StepState.FAILED))


def _answer(task: Task, ref: Ref) -> tuple[Task, Effect]:
    found = [question for question in task.questions if (question.key, question.epoch) == (ref.key, ref.epoch)]
    if not found:
        raise Refused("NotFound")
    if found[0].state is not QuestionState.OPEN:
        raise Refused("Conflict")
    questions = tuple(q._replace(state=QuestionState.ANSWERED) if q is found[0] else q for q in task.questions)
    step = task.step(ref.key)
    ready = step._replace(state=StepState.READY, epoch=step.epoch + 1, attempts=0)
    task, sent = enqueue(task._replace(questions=questions), ready)
    return task, Effect(sent=frozenset({sent}))


# --- workers ----------------------------------------------------------------------------------------------------------


def claimable(step: Step) -> bool:
    return (
        step.state in (StepState.READY, StepState.REVIEWING)
        and step.lease is None
        and step.due is None
        and not step.stopping
    )


def _claim(task: Task, ref: Ref, worker: str) -> tuple[Task, frozenset[Ref]] | None:
    step = task.step(ref.key)
    if step.epoch != ref.epoch or not claimable(step) or task.paused:
        return None
    state = StepState.RUNNING if step.state is StepState.READY else StepState.REVIEWING
    held = step._replace(state=state, attempts=step.attempts + 1, lease="held", worker=worker)
    found = [(need, task.output(need)) for need in step.needs]
    inputs = tuple(sorted((need, output.epoch) for need, output in found if output))
    attempt = Attempt(step.key, step.epoch, role_of(step), held.attempts, worker, inputs=inputs)
    task = task.with_step(held).without_entry(step.key)
    return task._replace(attempts=tuple(sorted((*task.attempts, attempt)))), frozenset()


def _extend(task: Task, ref: Ref) -> tuple[Task, frozenset[Ref]] | None:
    """Until somebody has taken it away, a lapsed lease is still its holder's."""
    step = task.step(ref.key)
    if step.epoch != ref.epoch or step.lease is None:
        return None
    return task.with_step(step._replace(lease="held")), frozenset()


def _settle(task: Task, ref: Ref, settlement: Settlement, team: Team) -> tuple[Task, frozenset[Ref]] | None:
    """Fenced: by the epoch, by the lease, by a cancel; and a sweeper's, by the lapse itself."""
    step = task.step(ref.key)
    if step.epoch != ref.epoch or step.lease is None or step.stopping != isinstance(settlement, Abandon):
        return None
    free = step._replace(lease=None, worker=None)
    match settlement:
        case Abandon(expired=expired):
            if expired and step.lease != "lapsed":
                return None
            task = _refuse_pending(_end(task, step, AttemptState.CANCELLED), step.key)
            return task.with_step(free._replace(state=StepState.CANCELLED)), frozenset()
        case Return(expired=expired) | Bury(expired=expired):
            if expired and step.lease != "lapsed":
                return None
            return (
                _returned(task, step, settlement) if isinstance(settlement, Return) else _buried(task, step, settlement)
            )
        case Approve():
            if step.state is not StepState.REVIEWING:
                return None
            return _approved(task, free)
        case Accept() | AcceptPlan() | Propose() | Ask():
            if step.state is not StepState.RUNNING:
                return None
            return _done(task, free, settlement, team)
        case _:
            assert_never(settlement)


def _done(
    task: Task, step: Step, settlement: Accept | AcceptPlan | Propose | Ask, team: Team
) -> tuple[Task, frozenset[Ref]]:
    over = step._replace(state=StepState.SUCCEEDED, feedback=None)
    match settlement:
        case Accept():
            task = _output(_end(task, step, AttemptState.SUCCEEDED), step.key, step.epoch)
            return task.with_step(over._replace(degraded=settlement.degraded is not None)), frozenset()
        case AcceptPlan(plan=plan):
            task = _output(_end(task, step, AttemptState.SUCCEEDED), step.key, step.epoch).with_step(over)
            return task._replace(planned=True, steps=(*task.steps, *_steps_of(plan, team))), frozenset()
        case Propose():
            proposal = Proposal(step.key, step.epoch, "pending", settlement.degraded is not None)
            task = _end(task, step, AttemptState.SUCCEEDED)._replace(proposals=(*task.proposals, proposal))
            review = step._replace(state=StepState.REVIEWING, epoch=step.epoch + 1, attempts=0)
            task, sent = enqueue(task, review)
            return task, frozenset({sent})
        case Ask():
            task = _end(task, step, AttemptState.WAITING)
            task = task._replace(questions=(*task.questions, Question(step.key, step.epoch)))
            return task.with_step(step._replace(state=StepState.WAITING, questions=step.questions + 1)), frozenset()
        case _:
            assert_never(settlement)


def _approved(task: Task, step: Step) -> tuple[Task, frozenset[Ref]]:
    """What the executor proposed is accepted: under the executor's epoch, not the reviewer's."""
    (pending,) = [each for each in task.proposals if each.key == step.key and each.state == "pending"]
    proposals = tuple(each._replace(state="accepted") if each is pending else each for each in task.proposals)
    task = _end(task, step, AttemptState.SUCCEEDED)._replace(proposals=proposals)
    over = step._replace(state=StepState.SUCCEEDED, feedback=None, degraded=pending.degraded)
    return _output(task, step.key, pending.epoch).with_step(over), frozenset()


def _returned(task: Task, step: Step, settlement: Return) -> tuple[Task, frozenset[Ref]]:
    """Back under a new epoch. A refusal starts the attempts anew; a review that failed keeps the proposal."""
    if settlement.expired:
        ended = AttemptState.EXPIRED
    elif settlement.rejected and step.state is StepState.REVIEWING:
        ended = AttemptState.SUCCEEDED
    else:
        ended = AttemptState.FAILED
    task = _end(task, step, ended, settlement.failure.code)
    if settlement.to == "ready":
        task = _refuse_pending(task, step.key)
    task = _quarantine(task, step, settlement)
    back = step._replace(
        state=StepState(settlement.to), epoch=step.epoch + 1, lease=None, worker=None,
        attempts=0 if settlement.rejected else step.attempts - (not settlement.counted),
        rejections=step.rejections + settlement.rejected,
        feedback=settlement.feedback[0].code if settlement.feedback else step.feedback,
        due="later" if settlement.after_seconds > 0 else None,
    )  # fmt: skip
    if back.due:
        return task.with_step(back), frozenset()
    task, sent = enqueue(task, back)
    return task, frozenset({sent})


def _buried(task: Task, step: Step, settlement: Bury) -> tuple[Task, frozenset[Ref]]:
    ended = AttemptState.EXPIRED if settlement.expired else AttemptState.FAILED
    task = _refuse_pending(_end(task, step, ended, settlement.failure.code), step.key)
    task = _quarantine(task, step, settlement)
    letter = Letter(step.key, step.epoch, settlement.failure.code, len(task.letters))
    feedback = settlement.feedback[0].code if settlement.feedback else step.feedback
    dead = step._replace(state=StepState.DEAD, epoch=step.epoch + 1, lease=None, worker=None, feedback=feedback)
    return task.with_step(dead)._replace(letters=(*task.letters, letter)), frozenset()


# --- loops ------------------------------------------------------------------------------------------------------------


def _sweep(task: Task, step: Step, team: Team, code: str) -> tuple[Task, frozenset[Ref]] | None:
    if step.lease != "lapsed":
        return None
    if step.stopping:
        return _settle(task, task.ref(step), Abandon(expired=True), team)
    settlement = decide_failure(assignment(step), Failure(code=code, text="x"), team, 0.5, expired=True)
    return _settle(task, task.ref(step), settlement, team)


def _stage(task: Task, step: Step) -> tuple[Task, frozenset[Ref]] | None:
    if step.due != "over":
        return None
    task, _ = enqueue(task, step._replace(due=None), published=False)
    return task, frozenset()


def _relay(world: World, broker_up: bool) -> tuple[World, Effect]:
    """Publish what waits, and again what may be lost; what the broker did not take waits on. What is paused is parked,
    and what was parked waits again when it is not."""
    sent: set[Ref] = set()
    tasks = []
    for task in world:
        entries = []
        for entry in task.entries:
            if entry.parked or (task.paused and (entry.late or not entry.published)):
                entry = _parked(entry) if task.paused else entry._replace(parked=False)
            if not entry.parked and (entry.late or not entry.published):
                entry = entry._replace(published=broker_up, late=False)
                if broker_up:
                    sent.add(task.ref(entry))
            entries.append(entry)
        tasks.append(task._replace(entries=tuple(entries)))
    return tuple(tasks), Effect(done=frozenset(sent), sent=frozenset(sent))


def _lapse_all(task: Task, worker: str) -> Task:
    for step in task.steps:
        if step.worker == worker and step.lease:
            task = task.with_step(step._replace(lease="lapsed"))
    return task


def _unpublish_all(task: Task) -> Task:
    """What is parked was not out."""
    return task._replace(entries=tuple(entry._replace(published=False, late=False) for entry in task.entries))


def _is_live(task: Task) -> bool:
    return task_state(task) not in (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED)


def _is_prunable(task: Task) -> bool:
    return not _is_live(task) and all(letter.state is not DeadLetterState.OPEN for letter in task.letters)


def _pass_time(task: Task, command: c.Lapse | c.Mature | c.Outdate | c.PassDeadline) -> Task:
    if isinstance(command, c.PassDeadline):
        return task._replace(deadline="passed") if task.name == command.task and task.deadline else task
    ref = command.ref
    if ref.task != task.name:
        return task
    if isinstance(command, c.Outdate):
        late = tuple(e._replace(late=True) if task.ref(e) == ref and e.published else e for e in task.entries)
        return task._replace(entries=late)
    step = task.step(ref.key)
    if step.epoch != ref.epoch:
        return task
    if isinstance(command, c.Lapse):
        return task.with_step(step._replace(lease="lapsed")) if step.lease else task
    return task.with_step(step._replace(due="over")) if step.due else task


# --- one word for each thing done to rows -----------------------------------------------------------------------------


def _on_refs(
    world: World, refs: tuple[Ref, ...], change: Callable[[Task, Ref], tuple[Task, frozenset[Ref]] | None]
) -> tuple[World, Effect]:
    """Change what each ref names, in one transaction: consequences follow when all is done."""
    done: set[Ref] = set()
    sent: set[Ref] = set()
    tasks = []
    for task in world:
        before = task
        for ref in refs:
            known = ref.task == task.name and any(step.key == ref.key for step in task.steps)
            changed = change(task, ref) if known else None
            if changed is not None:
                task, more = changed
                done.add(ref)
                sent |= more
        if task is not before:
            task, more = follow(_one_turn(before, task))
            sent |= more
        tasks.append(task)
    return tuple(tasks), Effect(frozenset(done), frozenset(sent))


def _on_steps(world: World, change: Callable[[Task, Step], tuple[Task, frozenset[Ref]] | None]) -> tuple[World, Effect]:
    refs = tuple(task.ref(step) for task in world for step in task.steps)
    return _on_refs(world, refs, lambda task, ref: change(task, task.step(ref.key)))


def _on_task(world: World, name: str, change: Callable[[Task], tuple[Task, Effect]]) -> tuple[World, Effect]:
    task = find(world, name)
    if task is None:
        raise Refused("NotFound")
    changed, effect = change(task)
    return tuple(changed if each is task else each for each in world), effect


def _one_turn(before: Task, task: Task) -> Task:
    """Letters opened in one transaction were opened at the same time."""
    turn = len(before.letters)
    return task._replace(letters=tuple(each._replace(turn=min(each.turn, turn)) for each in task.letters))


def _end(task: Task, step: Step, state: AttemptState, error: str | None = None) -> Task:
    attempts = tuple(
        a._replace(state=state, error=error) if (a.key, a.epoch) == (step.key, step.epoch) else a for a in task.attempts
    )
    return task._replace(attempts=attempts)


def _output(task: Task, key: str, epoch: int) -> Task:
    return task._replace(outputs=tuple(sorted((*task.outputs, Output(key, epoch)))))


def _quarantine(task: Task, step: Step, settlement: Return | Bury) -> Task:
    if settlement.output is None:
        return task
    return task._replace(proposals=(*task.proposals, Proposal(step.key, step.epoch, "rejected")))


def _refuse_pending(task: Task, key: str) -> Task:
    proposals = tuple(
        p._replace(state="rejected") if p.key == key and p.state == "pending" else p for p in task.proposals
    )
    return task._replace(proposals=proposals)


def _letter(task: Task, ref: Ref) -> Letter | None:
    return next((each for each in task.letters if (each.key, each.epoch) == (ref.key, ref.epoch)), None)


def _close_letter(task: Task, letter: Letter, state: DeadLetterState) -> Task:
    return task._replace(letters=tuple(each._replace(state=state) if each is letter else each for each in task.letters))


def role_of(step: Step) -> Role:
    if step.state is StepState.REVIEWING:
        return Role.REVIEWER
    return Role.PLANNER if step.agent == "lead" else Role.EXECUTOR


def assignment(step: Step) -> Assignment:
    """What the policy needs to know of a step that is held."""
    reviewing = step.state is StepState.REVIEWING
    agent = (step.reviewer or "") if reviewing else step.agent
    reviewer = None if reviewing else step.reviewer
    return _assignment(agent, role_of(step), reviewer, step.attempts, step.rejections, step.questions)


@lru_cache(maxsize=4096)
def _assignment(
    agent: str, role: Role, reviewer: str | None, attempt: int, rejections: int, questions: int
) -> Assignment:
    nobody: Any = "00000000-0000-0000-0000-000000000000"
    return Assignment(
        tenant="default", task_id=nobody, step_id=nobody, epoch=0, key="x", team_digest="x", role=role, agent=agent,
        reviewer=reviewer, attempt=attempt, rejections=rejections, questions=questions,
    )  # fmt: skip
