"""A team with all that a trace shows: three roles, thread, process, program, model, retries, artifacts."""

import os
import time
from typing import Any

from contracts import Context, Plan
from contracts.teams import Team
from tests.providers.models import talkers

from .house import diagnostics

PAYLOAD = "a-word-of-the-payload"
DEAD = {"times": 1, "retryable": False}
FIRST_SECONDS = 60


def plan(_ctx: Context, _given: dict[str, Any]) -> Plan:
    steps = [
        {"id": "note", "agent": "note", "input": {"value": PAYLOAD}},
        {"id": "program", "agent": "program", "input": {"value": PAYLOAD}},
        {"id": "find", "agent": "find", "input": {"number": 1}},
        {"id": "retried", "agent": "fail", "input": {"times": 1}},
        {"id": "dead", "agent": "fail", "input": DEAD},
        {"id": "reviewed", "agent": "echo_reviewed", "input": {"value": PAYLOAD, "reject_times": 1}},
    ]
    return Plan.model_validate({"steps": steps})


def note(ctx: Context, given: dict[str, Any]) -> dict[str, Any]:
    """Writes an artifact, and says what its process was told as its context."""
    ctx.artifacts.put(given["value"].encode())
    return {"traceparent": os.environ.get("TRACEPARENT")}


def wait_once(ctx: Context, given: dict[str, Any]) -> dict[str, Any]:
    """The first attempt writes an artifact, and then does not end."""
    ctx.artifacts.put(b"before the end")
    if ctx.step.attempt == 1:
        time.sleep(FIRST_SECONDS)
    return given


def team(provider_url: str, api_key: str) -> Team:
    own = diagnostics().model_dump(mode="json", exclude_none=True)
    agents = {name: own["agents"][name] for name in ("fail", "echo_reviewed", "reviewer")}
    model = talkers(provider_url, api_key=api_key).model_dump(mode="json", exclude_none=True)
    shell = """cat >/dev/null; printf '{"output": {"traceparent": "%s"}}' "$TRACEPARENT\""""
    return Team.model_validate(
        {
            "name": "traced",
            "retry": own["retry"],
            "prompts": model["prompts"],
            "agents": {
                **agents,
                "find": model["agents"]["find"],
                "plan": {"role": "planner", "call": f"{__name__}:plan", "isolation": "thread"},
                "note": {"call": f"{__name__}:note"},
                "wait_once": {"call": f"{__name__}:wait_once"},
                "program": {"kind": "command", "command": ["sh", "-c", shell]},
            },
        }
    )
