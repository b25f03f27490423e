"""Agents of kind `llm` for tests: their types, importable by workers, and a team that asks a scripted provider."""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict

from contracts.teams import Team
from contracts.verdicts import Reason
from tests.providers.asked import Ask
from tests.providers.scripted import Said, Say
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


def steps(*numbers: int) -> list[dict[str, Any]]:
    return [{"id": f"s{number}", "agent": "find", "input": {"number": number}} for number in numbers]


def calculating(turns: int, seconds: float = 0.0) -> Callable[[Ask], Said]:
    """Another sum each turn, then the answer."""

    def script(ask: Ask) -> Said:
        done = len(ask.results)
        if done < turns - 1:
            return Say(calls=[("calculate", {"expression": f"{done} + 1"})], seconds=seconds)
        return Say(calls=[("answer", {"number": done, "words": "found"})], seconds=seconds)

    return script


def check_words(subject: Subject) -> list[Reason]:
    """A gate: there is one right word."""
    if subject.output["words"] == "right":
        return []
    return [Reason(code="words.wrong", where="/words", text="the words are wrong")]
