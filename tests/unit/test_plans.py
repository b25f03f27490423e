"""What a plan may be; more of it is in test_policy.py, where a wrong plan goes back to its planner."""

from contracts.plans import Plan, check_plan
from contracts.teams import Team

TEAM = Team.model_validate({"name": "t", "agents": {"work": {"call": "m:f"}}})


def test_a_step_that_needs_itself_is_named() -> None:
    plan = Plan.model_validate({"steps": [{"id": "a", "agent": "work"}, {"id": "b", "agent": "work", "needs": ["b"]}]})
    (reason,) = check_plan(plan, TEAM)
    assert (reason.code, reason.where) == ("plan.cycle", "steps.1.needs")
