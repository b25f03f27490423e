"""JSON Schemas of what crosses a process or a person's editor, generated from the models.

The committed copies in `contracts/schemas/` are written by `make schemas` and checked for drift by the tests.
"""

from typing import Any

from pydantic import TypeAdapter

from contracts.messages import Message
from contracts.outcomes import OUTCOME
from contracts.plans import Plan
from contracts.settlements import Settlement
from contracts.teams import Team
from contracts.verdicts import Judgement, Verdict


def documents() -> dict[str, dict[str, Any]]:
    """File name to JSON Schema (draft 2020-12)."""
    return {
        "message.json": Message.model_json_schema(),
        "plan.json": Plan.model_json_schema(),
        "team.json": Team.model_json_schema(),
        "outcome.json": OUTCOME.json_schema(),
        "settlement.json": TypeAdapter[Any](Settlement).json_schema(),
        "verdict.json": Verdict.model_json_schema(),
        "judgement.json": Judgement.model_json_schema(),
    }
