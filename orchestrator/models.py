"""What LLM agents need to reach their models, and what of it is missing, before one of them finds out.

Nothing is imported and nobody is called: whether a model answers is not looked for.
"""

import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Literal, NamedTuple

from contracts.teams import Agent, Kind, Team
from shared_state.settings import Settings, masked

_SDK_OF: Mapping[str, str] = {
    "openai": "openai",
    "openai-chat": "openai",
    "openai-responses": "openai",
    "anthropic": "anthropic",
}
"""Packages that have an extra of the same name; those of other providers are the user's to install."""


class Finding(NamedTuple):
    status: Literal["ok", "none", "wrong"]
    text: str


def describe_default(settings: Settings, environ: Mapping[str, str] = os.environ) -> Finding:
    """The model of agents whose team names none."""
    if not settings.model:
        return Finding("none", "none is set: team assistant needs model, and model_api_key or model_base_url")
    provider = settings.model.partition(":")[0]
    lacking = _lacking_package(provider)
    if lacking is not None:
        return Finding("wrong", f"{settings.model} {lacking}")
    where = masked(settings.model_base_url) if settings.model_base_url else f"{provider}'s own address"
    if settings.model_api_key is not None:
        return Finding("ok", f"{settings.model} at {where}, with a key")
    if settings.model_base_url is not None:
        return Finding("ok", f"{settings.model} at {where}, without a key")
    variable = _usual_variable(provider)
    if environ.get(variable):
        return Finding("ok", f"{settings.model} at {where}, with the key in {variable}")
    return Finding("wrong", f"{settings.model} at {where} needs a key: set model_api_key")


def lacks(team: Team, settings: Settings, environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """What the team's agents need and do not have here; where the workers run it may be otherwise."""
    llms = {name: agent for name, agent in team.agents.items() if agent.kind is Kind.LLM}
    without = ", ".join(name for name, agent in llms.items() if agent.model is None)
    if without and not settings.model:
        yield f"{without}: no model is named; set model here, or in the team"
    for name, agent in llms.items():
        lacking = _lacking(agent, environ)
        if lacking is not None:
            yield f"{name}: {agent.model} {lacking}"


def _lacking(agent: Agent, environ: Mapping[str, str]) -> str | None:
    if agent.model is None:
        return None
    provider = agent.model.partition(":")[0]
    lacking = _lacking_package(provider)
    if lacking is not None:
        return lacking
    if agent.api_key is not None:
        kind, _, where = agent.api_key.partition(":")
        there = environ.get(where) if kind == "env" else os.access(where, os.R_OK)
        return None if there else f"needs a key: {agent.api_key} is not here"
    variable = _usual_variable(provider)
    there = agent.base_url or provider not in _SDK_OF or environ.get(variable)
    return None if there else f"needs a key: give api_key, or set {variable}"


def _lacking_package(provider: str) -> str | None:
    sdk = _SDK_OF.get(provider)
    if find_spec("pydantic_ai") is None or (sdk is not None and find_spec(sdk) is None):
        return f"needs the extra: pip install 'agent-orchestrator[{sdk or 'models'}]'"
    return None


def _usual_variable(provider: str) -> str:
    """Where the provider's own clients look for a key."""
    return f"{_SDK_OF.get(provider, provider).upper().replace('-', '_')}_API_KEY"
