"""What the system does by itself once faults are over: every message of the past is lost, every worker is dead."""

from contracts.plans import Plan
from contracts.teams import Team
from tests.model import commands as c
from tests.model.invariants import is_over
from tests.model.moves import good
from tests.model.rows import Ref, World
from tests.model.transitions import Apply, apply


class Stuck(AssertionError):
    """Nothing that the loops and healthy workers do brings this state to an end."""


def recover(world: World, plan: Plan, team: Team, *, by: Apply = apply, rounds: int = 60) -> list[World]:
    """Run loops and one healthy worker until every task is over; the states on the way. Raises `Stuck`."""
    passed = [world]
    for task in world:
        world, _ = by(world, c.Resume(task.name), team)
        for step in task.steps:
            world, _ = by(world, c.Lapse(task.ref(step)), team)
            world, _ = by(world, c.Mature(task.ref(step)), team)
            world, _ = by(world, c.Outdate(task.ref(step)), team)
    for _ in range(rounds):
        passed.append(world)
        if all(is_over(task) for task in world):
            return passed
        world = _round(world, plan, team, by)
    raise Stuck(f"{[(step.key, str(step.state)) for task in world for step in task.steps if not is_over(task)]}")


def _round(world: World, plan: Plan, team: Team, by: Apply) -> World:
    """The loops, each once; then what was sent is claimed, and settled well."""
    sent: set[Ref] = set()
    for command in (c.Sweep(), c.Stage(), c.Relay()):
        world, effect = by(world, command, team)
        sent |= effect.sent
    if not sent:
        return world
    world, effect = by(world, c.Claim(tuple(sorted(sent)), "healthy"), team)
    items = tuple(
        (task.ref(step), good(step, plan, team))
        for task in world
        for step in task.steps
        if task.ref(step) in effect.done
    )
    world, effect = by(world, c.Settle(items), team)
    # What a settlement sends is lost too: only the relay's second sending may be relied upon.
    for ref in effect.sent:
        world, _ = by(world, c.Outdate(ref), team)
    return world
