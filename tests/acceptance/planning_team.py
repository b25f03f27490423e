"""A team that needs all three roles: a planner whose one step's output is reviewed."""

from contracts import Context, Plan
from contracts.teams import Agent, Role, Team

from .house import diagnostics


def plan(_ctx: Context, given: dict[str, object]) -> Plan:
    return Plan.model_validate({"steps": [{"id": "draft", "agent": "echo_reviewed", "input": given}]})


def team() -> Team:
    own = diagnostics().agents
    reviewed = {name: own[name] for name in ("echo_reviewed", "reviewer")}
    return Team(
        name="planning",
        agents={"plan": Agent(role=Role.PLANNER, call=f"{__name__}:plan", isolation="thread"), **reviewed},
    )
