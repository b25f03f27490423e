"""Agents of kind `llm` for tests: their types, importable by workers, and a team that asks a scripted provider."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from contracts.teams import Team
from contracts.verdicts import Reason
from workers.gates.subject import Subject

KEY_VARIABLE = "TEST_PROVIDER_KEY"
NAME = "talkers"


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: int


class Found(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: int
    words: str


def talkers(url: str, **agent: Any) -> Team:
    """One executor `find` (Order to Found) that may calculate; `agent` says more of it, or something else."""
    find = {
        "kind": "llm",
        "prompt": "find",
        "model": "openai-chat:scripted",
        "base_url": url,
        "api_key": f"env:{KEY_VARIABLE}",
        "input": f"{__name__}:Order",
        "output": f"{__name__}:Found",
        "tools": ["calculate"],
        **agent,
    }
    retry = {"default": {"attempts": 15, "backoff_seconds": 0.05, "backoff_limit_seconds": 0.1}}
    prompts = {"find": "You find number {{ input.number }}. Calculate step by step."}
    return Team.model_validate({"name": NAME, "agents": {"find": find}, "prompts": prompts, "retry": retry})


def check_words(subject: Subject) -> list[Reason]:
    """A gate: there is one right word."""
    if subject.output["words"] == "right":
        return []
    return [Reason(code="words.wrong", where="/words", text="the words are wrong")]
