"""Every state that small tasks can reach, under duplicated, lost, late and reordered messages, lapsed leases, zombies,
dead workers, cancels, redrives: explored breadth first, and at random in depth. No servers."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from contracts.plans import Plan
from contracts.settlements import Accept, Propose, Return
from contracts.states import StepState
from contracts.teams import Team
from tests.model import commands as c
from tests.model.explore import Violation, explore
from tests.model.invariants import is_over, wrong, wrong_move
from tests.model.moves import late_messages, moves
from tests.model.recovery import recover
from tests.model.rows import Output, Task, World
from tests.model.teams import PLAIN, PLANNED
from tests.model.transitions import Effect, apply

DEEPER = int(os.environ.get("ORCHESTRATOR_TEST_DEEPER", "0"))
"""How many faults more than by default; each multiplies the states by about seven."""


def plan_of(*steps: dict[str, Any]) -> Plan:
    return Plan.model_validate({"steps": [{"agent": "work", **step} for step in steps]})


ONE = plan_of({"id": "a"})
REVIEWED = plan_of({"id": "a", "agent": "careful"})
CHAIN = plan_of({"id": "a"}, {"id": "b", "needs": ["a"]})
OPTIONAL = plan_of({"id": "a", "optional": True}, {"id": "b", "needs": ["a"]})
JOIN = plan_of({"id": "a"}, {"id": "b", "optional": True}, {"id": "c", "needs": ["a", "b"]})

CONFIGURATIONS: dict[str, tuple[Plan, Team, int]] = {
    "one step": (ONE, PLAIN, 3),
    "a reviewed step": (REVIEWED, PLAIN, 3),
    "a chain": (CHAIN, PLAIN, 3),
    "after an optional step": (OPTIONAL, PLAIN, 2),
    "a join with an optional need": (JOIN, PLAIN, 2),
    "a planner": (CHAIN, PLANNED, 2),
}


def submission(plan: Plan, team: Team) -> c.Submit:
    return c.Submit("t", plan if team is PLAIN else None)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_no_reachable_state_is_wrong_and_from_each_there_is_an_end(name: str) -> None:
    plan, team, faults = CONFIGURATIONS[name]
    faults += DEEPER
    found = explore(submission(plan, team), plan, team, faults=faults)
    print(f"{name}: {found.states} states, {found.moves} moves, {found.refused} latecomers, {faults} faults")
    assert found.states > 500
    assert found.refused > found.states


def without_fence(world: World, command: c.Command, team: Team) -> tuple[World, Effect]:
    """A settlement is written by whoever comes, as the systems do that acknowledge by the job's id."""
    if isinstance(command, c.Settle):
        current = {(task.name, step.key): step.epoch for task in world for step in task.steps}
        items = tuple((ref._replace(epoch=current[ref.task, ref.key]), each) for ref, each in command.items)
        command = c.Settle(items)
    return apply(world, command, team)


def claimed_at_any_epoch(world: World, command: c.Command, team: Team) -> tuple[World, Effect]:
    if isinstance(command, c.Claim):
        current = {(task.name, step.key): step.epoch for task in world for step in task.steps}
        refs = tuple(ref._replace(epoch=current[ref.task, ref.key]) for ref in command.refs)
        command = c.Claim(refs, command.worker)
    return apply(world, command, team)


def forgetful(world: World, command: c.Command, team: Team) -> tuple[World, Effect]:
    """A step that comes back is not queued: the message was thought to be enough."""
    after, effect = apply(world, command, team)
    if isinstance(command, c.Settle) and isinstance(command.items[0][1], Return):
        after = tuple(task._replace(entries=()) for task in after)
    return after, effect


def without_sweeper(world: World, command: c.Command, team: Team) -> tuple[World, Effect]:
    return (world, Effect()) if isinstance(command, c.Sweep) else apply(world, command, team)


def without_second_sending(world: World, command: c.Command, team: Team) -> tuple[World, Effect]:
    return (world, Effect()) if isinstance(command, c.Relay) else apply(world, command, team)


def without_stager(world: World, command: c.Command, team: Team) -> tuple[World, Effect]:
    return (world, Effect()) if isinstance(command, c.Stage) else apply(world, command, team)


def without_review(world: World, command: c.Command, team: Team) -> tuple[World, Effect]:
    if isinstance(command, c.Settle):
        items = tuple((r, Accept(output=1) if isinstance(each, Propose) else each) for r, each in command.items)
        command = c.Settle(items)
    return apply(world, command, team)


def read_before_review(world: World, command: c.Command, team: Team) -> tuple[World, Effect]:
    """What is proposed can be read at once."""
    after, effect = apply(world, command, team)
    shown = tuple(
        task._replace(outputs=tuple({*task.outputs, *(Output(p.key, p.epoch) for p in task.proposals)}))
        for task in after
    )
    return shown, effect


def with_a_late_cancel(world: World, command: c.Command, team: Team) -> tuple[World, Effect]:
    """Cancelled steps in the hands of workers may still be accepted."""
    after, effect = apply(world, command, team)
    if isinstance(command, c.Cancel):
        after = tuple(
            task._replace(steps=tuple(step._replace(stopping=False) for step in task.steps)) for task in after
        )
    return after, effect


def without_a_dead_letter(world: World, command: c.Command, team: Team) -> tuple[World, Effect]:
    after, effect = apply(world, command, team)
    return tuple(task._replace(letters=()) for task in after), effect


def with_forgotten_skips(world: World, command: c.Command, team: Team) -> tuple[World, Effect]:
    """A redrive does not look at what was skipped."""
    after, effect = apply(world, command, team)
    if isinstance(command, c.Redrive):
        skipped = {step.key for task in world for step in task.steps if step.state is StepState.SKIPPED}
        after = tuple(
            task._replace(
                steps=tuple(s._replace(state=StepState.SKIPPED) if s.key in skipped else s for s in task.steps)
            )
            for task in after
        )
    return after, effect


BROKEN: dict[Callable[..., tuple[World, Effect]], str] = {
    without_fence: "one step",
    claimed_at_any_epoch: "one step",
    forgetful: "one step",
    without_sweeper: "one step",
    without_second_sending: "one step",
    without_stager: "one step",
    without_review: "a reviewed step",
    read_before_review: "a reviewed step",
    with_a_late_cancel: "one step",
    without_a_dead_letter: "one step",
    with_forgotten_skips: "a chain",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda each: each.__name__)
def test_exploration_finds_what_is_wrong_with_a_broken_model(broken: Callable[..., tuple[World, Effect]]) -> None:
    plan, team, faults = CONFIGURATIONS[BROKEN[broken]]
    with pytest.raises(Violation):
        explore(submission(plan, team), plan, team, faults=faults, by=broken)


class Deep(RuleBasedStateMachine):
    """Long histories of two tasks at once: everything that may happen, in any order, without a budget."""

    def __init__(self) -> None:
        super().__init__()
        self.world: World = ()
        for task in (c.Submit("join", JOIN), c.Submit("planned", None, deadline=True)):
            self.world, _ = apply(self.world, task, PLANNED)

    def do(self, command: c.Command) -> Effect:
        before = {task.name: task for task in self.world}
        self.world, effect = apply(self.world, command, PLANNED)
        for task in self.world:
            assert wrong_move(before[task.name], task) == []
        return effect

    def steps(self, *, people: bool) -> list[c.Command]:
        interfering = (c.Redrive, c.Discard, c.Cancel)
        found = [(command, cost) for task in self.world for cost, command in moves(task, CHAIN, PLANNED)]
        return [command for command, _ in found if isinstance(command, interfering) == people]

    @rule(data=st.data())
    def something(self, data: st.DataObject) -> None:
        possible = self.steps(people=False)
        if possible:
            self.do(data.draw(st.sampled_from(possible)))

    @rule(data=st.data())
    def the_usual(self, data: st.DataObject) -> None:
        """What happens in a world without faults."""
        usual = [command for task in self.world for cost, command in moves(task, CHAIN, PLANNED) if cost == 0]
        if usual:
            self.do(data.draw(st.sampled_from(usual)))

    @rule(data=st.data())
    def somebody(self, data: st.DataObject) -> None:
        possible = [each for each in self.steps(people=True) if not isinstance(each, c.Cancel)]
        if possible:
            self.do(data.draw(st.sampled_from(possible)))

    @rule(data=st.data())
    @precondition(lambda self: any(task.attempts for task in self.world))
    def a_latecomer(self, data: st.DataObject) -> None:
        late = [command for task in self.world for command in late_messages(task, CHAIN, PLANNED)]
        if late:
            before = self.world
            self.do(data.draw(st.sampled_from(late)))
            assert self.world == before

    @rule()
    @precondition(lambda self: any(task.letters for task in self.world))
    def the_deadline(self) -> None:
        self.do(c.PassDeadline("planned"))
        self.do(c.Sweep())

    @rule(data=st.data(), name=st.sampled_from(["join", "planned"]))
    @precondition(lambda self: any(len(task.attempts) > 6 for task in self.world))
    def a_cancel(self, data: st.DataObject, name: str) -> None:
        self.do(c.Cancel(name))

    @invariant()
    def nothing_is_wrong(self) -> None:
        for task in self.world:
            assert wrong(task) == []

    def teardown(self) -> None:
        ended: World = recover(self.world, CHAIN, PLANNED, rounds=200)[-1]
        assert [task.name for task in ended] == ["join", "planned"], "a task was lost"
        assert all(is_over(task) for task in ended)


def test_long_histories_of_two_tasks_stay_right_and_end() -> None:
    profile = settings(
        max_examples=60 * (DEEPER + 1), stateful_step_count=50 * (DEEPER + 1), deadline=None, derandomize=True,
        suppress_health_check=list(HealthCheck), database=None,
    )  # fmt: skip
    run_state_machine_as_test(Deep, settings=profile)


def test_a_state_is_over_only_when_it_is() -> None:
    """The measure of all ends above."""
    (task,), _ = apply((), c.Submit("t", ONE), PLAIN)
    assert not is_over(task)
    held: Task = apply((task,), c.Claim((task.ref(task.steps[0]),), "w"), PLAIN)[0][0]
    assert not is_over(held)
    done = apply((held,), c.Settle(((held.ref(held.steps[0]), Accept(output=1)),)), PLAIN)[0][0]
    assert is_over(done)
