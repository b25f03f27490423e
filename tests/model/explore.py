"""Breadth-first exploration: every state that a task can reach within a budget of faults, each one checked."""

from dataclasses import dataclass

from contracts.plans import Plan
from contracts.teams import Team
from tests.model import commands as c
from tests.model.invariants import wrong, wrong_move
from tests.model.moves import late_messages, moves
from tests.model.recovery import Stuck, recover
from tests.model.rows import Task, World
from tests.model.transitions import Apply, apply


class Violation(AssertionError):
    """A state that must not be, with the shortest (cheapest) way to it."""


@dataclass(frozen=True)
class Explored:
    states: int
    moves: int
    refused: int
    """Late messages and zombies' settlements that changed nothing."""


def explore(submit: c.Submit, plan: Plan, team: Team, *, faults: int, by: Apply = apply) -> Explored:
    """All states of one task with at most `faults` faults. `plan` is what its planner returns, if it has one."""
    world, _ = by((), submit, team)
    came_from: dict[Task, tuple[Task, c.Command] | None] = {world[0]: None}
    sound: set[World] = set()
    level, cost, made, refused = [world[0]], 0, 0, 0
    while level and cost <= faults:
        dearer: dict[Task, tuple[Task, c.Command]] = {}
        while level:
            following: list[Task] = []
            for task in level:
                refused += _check(task, plan, team, by, came_from, sound)
                for price, command in moves(task, plan, team):
                    (after,), _ = by((task,), command, team)
                    made += 1
                    if after in came_from:
                        continue
                    found = wrong_move(task, after)
                    if found:
                        raise Violation(_story([*found], task, came_from) + f"\nthen {c.tell(command)}")
                    if price:
                        dearer.setdefault(after, (task, command))
                    else:
                        came_from[after] = (task, command)
                        following.append(after)
            level = following
        fresh = {task: way for task, way in dearer.items() if task not in came_from}
        if cost < faults:
            came_from |= fresh
        level, cost = list(fresh), cost + 1
    return Explored(len(came_from), made, refused)


def _check(
    task: Task, plan: Plan, team: Team, by: Apply,
    came_from: dict[Task, tuple[Task, c.Command] | None], sound: set[World],
) -> int:  # fmt: skip
    """Safety here, an end from here, and nothing to be gained by those who come too late. Counts the latter."""
    found = wrong(task)
    if found:
        raise Violation(_story(found, task, came_from))
    refused = 0
    for command in late_messages(task, plan, team):
        after, effect = by((task,), command, team)
        refused += 1
        if after != (task,) or effect.done:
            raise Violation(_story([f"a latecomer changed something: {c.tell(command)}"], task, came_from))
    if (task,) not in sound:
        try:
            sound.update(recover((task,), plan, team, by=by))
        except Stuck as stuck:
            raise Violation(_story([f"no end from here: {stuck}"], task, came_from)) from stuck
    return refused


def _story(found: list[str], task: Task, came_from: dict[Task, tuple[Task, c.Command] | None]) -> str:
    commands: list[str] = []
    way = came_from[task]
    while way is not None:
        task, command = way[0], way[1]
        commands.append(c.tell(command))
        way = came_from[task]
    return "\n".join([*found, "after:", *reversed(commands)])
