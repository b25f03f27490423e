"""Plans: a directed acyclic graph of steps, and the rules a plan must keep before anything runs."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from contracts.teams import Role, Team
from contracts.verdicts import Reason

StepKey = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/-]*$")]


class Step(BaseModel):
    """One unit of work: an agent, its input, and the ids of the steps whose accepted outputs it needs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: StepKey
    agent: str = Field(min_length=1, max_length=100)
    input: dict[str, Any] = Field(default_factory=dict)
    needs: tuple[StepKey, ...] = ()
    optional: bool = Field(default=False, strict=True)
    review: str | None = Field(default=None, max_length=100)


class Plan(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Ordered:
    """A step of an accepted plan with its topological rank (0 = needs nothing) and whether anything needs it."""

    step: Step
    rank: int
    has_dependents: bool


def rank_steps(plan: Plan) -> Mapping[str, int]:
    """Topological rank by step id; steps on or behind a cycle are missing. Linear in steps and edges."""
    waiting = {step.id: len(set(step.needs)) for step in plan.steps}
    dependents: dict[str, list[str]] = {}
    for step in plan.steps:
        for need in set(step.needs):
            dependents.setdefault(need, []).append(step.id)
    ranks = {key: 0 for key, count in waiting.items() if count == 0}
    queue = deque(ranks)
    while queue:
        key = queue.popleft()
        for child in dependents.get(key, ()):
            waiting[child] -= 1
            if waiting[child] == 0:
                ranks[child] = ranks[key] + 1
                queue.append(child)
    return ranks


def check_plan(plan: Plan, team: Team, *, reason_limit: int = 50) -> list[Reason]:
    """Everything that is wrong with a plan, in words its author can act on; an empty list means acceptable."""
    reasons: list[Reason] = []
    if not plan.steps:
        return [Reason(code="plan.empty", where="steps", text="a plan needs at least one step")]
    if len(plan.steps) > team.bounds.steps:
        text = f"the plan has {len(plan.steps)} steps; this team allows {team.bounds.steps}"
        return [Reason(code="plan.too_many_steps", where="steps", text=text)]
    known: set[str] = set()
    for index, step in enumerate(plan.steps):
        if step.id in known:
            reasons.append(_reason("plan.duplicate_id", index, "id", f"step id {step.id!r} is used twice"))
        known.add(step.id)
    for index, step in enumerate(plan.steps):
        reasons.extend(_check_step(index, step, team, known))
        if len(reasons) >= reason_limit:
            return reasons[:reason_limit]
    if reasons:
        return reasons
    ranks = rank_steps(plan)
    if len(ranks) < len(plan.steps):
        stuck = [step.id for step in plan.steps if step.id not in ranks][:10]
        return [Reason(code="plan.cycle", where="steps", text=f"these steps wait for each other: {', '.join(stuck)}")]
    depth = max(ranks.values()) + 1
    if depth > team.bounds.depth:
        text = f"the longest chain has {depth} steps; this team allows {team.bounds.depth}"
        return [Reason(code="plan.too_deep", where="steps", text=text)]
    return []


def order_plan(plan: Plan) -> list[Ordered]:
    """The steps of a checked plan, parents before children."""
    ranks = rank_steps(plan)
    needed = {need for step in plan.steps for need in step.needs}
    ordered = [Ordered(step, ranks[step.id], step.id in needed) for step in plan.steps]
    return sorted(ordered, key=lambda item: item.rank)


def _check_step(index: int, step: Step, team: Team, known: set[str]) -> list[Reason]:
    reasons: list[Reason] = []
    agent = team.agents.get(step.agent)
    if agent is None:
        executors = ", ".join(sorted(name for name, each in team.agents.items() if each.role is Role.EXECUTOR))
        text = f"team {team.name!r} has no agent {step.agent!r}; its executors are: {executors}"
        reasons.append(_reason("plan.unknown_agent", index, "agent", text))
    elif agent.role is not Role.EXECUTOR:
        text = f"agent {step.agent!r} is a {agent.role}; a step needs an executor"
        reasons.append(_reason("plan.wrong_role", index, "agent", text))
    if step.review is not None:
        reviewer = team.agents.get(step.review)
        if reviewer is None or reviewer.role is not Role.REVIEWER:
            text = f"team {team.name!r} has no reviewer {step.review!r}"
            reasons.append(_reason("plan.unknown_reviewer", index, "review", text))
    for need in step.needs:
        if need not in known:
            reasons.append(_reason("plan.unknown_need", index, "needs", f"there is no step {need!r} in this plan"))
        elif need == step.id:
            reasons.append(_reason("plan.cycle", index, "needs", f"step {need!r} needs itself"))
    return reasons


def _reason(code: str, index: int, field: str, text: str) -> Reason:
    return Reason(code=code, where=f"steps.{index}.{field}", text=text[:2000])
