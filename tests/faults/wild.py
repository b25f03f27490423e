"""Teams that mean harm: planners whose plans never end, and steps that fail for as long as a file is there."""

import json
from pathlib import Path
from typing import Any

from contracts import Context, Plan, Step
from contracts.teams import Team

MORE_THAN_BOUND = 10_001
"""Steps of the plan that is too long."""


def cycle(ctx: Context) -> Plan:
    return Plan(steps=(Step(id="a", agent="work", needs=("b",)), Step(id="b", agent="work", needs=("a",))))


def expand(ctx: Context) -> Plan:
    """Steps that would plan again, and so on."""
    return Plan(steps=tuple(Step(id=f"again{number}", agent="lead") for number in range(10)))


def flood(ctx: Context) -> Plan:
    return Plan(steps=tuple(Step(id=f"s{number}", agent="work") for number in range(MORE_THAN_BOUND)))


def work(ctx: Context) -> dict[str, str]:
    return {"key": ctx.step.key}


def poison(ctx: Context, given: dict[str, str]) -> dict[str, Any]:
    if Path(given["while"]).exists():
        raise ValueError("still poisoned")
    return {"key": ctx.step.key}


def big(ctx: Context, given: dict[str, int]) -> str:
    """That many bytes, more than any bound."""
    return "x" * given["bytes"]


def wild_teams() -> list[Team]:
    """One for each planner, named for it; `poison` and `big` are in all of them."""
    return [_team(name) for name in ("cycle", "expand", "flood")]


def _team(planner: str) -> Team:
    once = {"default": {"attempts": 1}}
    agents: dict[str, dict[str, Any]] = {
        "lead": {"role": "planner", "call": f"{__name__}:{planner}", "isolation": "thread"},
        "work": {"call": f"{__name__}:work", "isolation": "thread"},
        "poison": {"call": f"{__name__}:poison", "isolation": "thread", "retry": once},
        "big": {"call": f"{__name__}:big", "retry": once},
    }
    return Team.model_validate({"name": planner, "agents": agents, "bounds": {"rejections": 1}})


def long_plan(steps: int, width: int) -> Plan:
    """Layers of `width` steps, each needing one of the layer before."""
    return Plan.model_validate(
        {
            "steps": [
                {"id": f"s{n}", "agent": "work", "needs": [f"s{n - width}"] if n >= width else []} for n in range(steps)
            ]
        }
    )


def herd_plan(width: int) -> Plan:
    """One step, then `width` at once, then one that needs them all."""
    leaves = [{"id": f"leaf{n}", "agent": "work", "needs": ["gate"]} for n in range(width)]
    join = {"id": "join", "agent": "work", "needs": [leaf["id"] for leaf in leaves]}
    return Plan.model_validate_json(json.dumps({"steps": [{"id": "gate", "agent": "work"}, *leaves, join]}))
