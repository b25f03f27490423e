"""The teams that the model and its refinement use: few attempts, so that every end of the line is near."""

from contracts.teams import Agent, Bounds, Team

PLAIN = Team(
    name="modelled",
    agents={
        "work": Agent(call="m:f"),
        "careful": Agent(call="m:f", review="judge"),
        "judge": Agent(call="m:f", role="reviewer"),
    },
    bounds=Bounds(rejections=1, questions=2),
    retry={"default": {"attempts": 2}},
)
PLANNED = PLAIN.model_copy(
    update={"name": "modelled_planned", "agents": {**PLAIN.agents, "lead": Agent(call="m:f", role="planner")}}
)
