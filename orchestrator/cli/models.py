"""What `check` says of the default model: what is missing for LLM agents, before one of them finds out."""

from importlib.util import find_spec

from shared_state.settings import Settings, masked

_SDK_OF = {"anthropic": "anthropic"}
"""The package behind a provider, by its name; all others here speak OpenAI's dialects."""


def model_finding(settings: Settings) -> dict[str, str]:
    """{what, status, text}. Nothing is imported and nobody is called: the model's own answer is not looked for."""
    if not settings.model:
        remedy = "LLM agents whose team names no model (team assistant is one) need model, and model_api_key or"
        return _finding("none", f"none is set: {remedy} model_base_url; docs/models.md")
    provider = settings.model.partition(":")[0]
    sdk = _SDK_OF.get(provider, "openai")
    if find_spec("pydantic_ai") is None or find_spec(sdk) is None:
        return _finding("wrong", f"{settings.model} needs the extra: pip install 'agent-orchestrator[{sdk}]'")
    where = masked(settings.model_base_url) if settings.model_base_url else f"{provider}'s own endpoint"
    if settings.model_api_key is None and settings.model_base_url is None:
        return _finding("wrong", f"{settings.model} at {where} needs a key: set model_api_key")
    key = "with a key" if settings.model_api_key else "without a key"
    return _finding("ok", f"{settings.model} at {where}, {key}")


def _finding(status: str, text: str) -> dict[str, str]:
    return {"what": "model", "status": status, "text": text}
