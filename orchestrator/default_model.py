"""The default model as people are told of it: which it is, or what is missing, before an LLM agent finds out."""

from importlib.util import find_spec
from typing import Literal, NamedTuple

from shared_state.settings import Settings, masked

_SDK_OF = {"anthropic": "anthropic"}
"""The package behind a provider, by its name; all others here speak OpenAI's dialects."""


class Finding(NamedTuple):
    status: Literal["ok", "none", "wrong"]
    text: str


def describe(settings: Settings) -> Finding:
    """Nothing is imported and nobody is called: whether the model answers is not looked for."""
    if not settings.model:
        return Finding("none", "none is set: team assistant needs model, and model_api_key or model_base_url")
    provider = settings.model.partition(":")[0]
    sdk = _SDK_OF.get(provider, "openai")
    if find_spec("pydantic_ai") is None or find_spec(sdk) is None:
        return Finding("wrong", f"{settings.model} needs the extra: pip install 'agent-orchestrator[{sdk}]'")
    where = masked(settings.model_base_url) if settings.model_base_url else f"{provider}'s own endpoint"
    if settings.model_api_key is None and settings.model_base_url is None:
        return Finding("wrong", f"{settings.model} at {where} needs a key: set model_api_key")
    key = "with a key" if settings.model_api_key else "without a key"
    return Finding("ok", f"{settings.model} at {where}, {key}")
