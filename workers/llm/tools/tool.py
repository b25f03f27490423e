"""What a tool is: what the model reads of it, its arguments as a closed model, and a function of what it may reach."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from workers.llm.tools.answers import Answer
from workers.llm.tools.sources import Sources


@dataclass(frozen=True)
class Desk:
    """What the tool calls of one attempt can reach. `now` gives the time with its zone."""

    sources: Sources
    now: Callable[[], datetime]


class Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Tool:
    """`run` is synchronous and may wait for Postgres. `repeatable`: the same arguments have the same answer at every
    attempt of the step; an answer of one that is not is taken from the journal when the attempt begins again."""

    name: str
    description: str
    arguments: type[Arguments]
    run: Callable[[Desk, Any], Answer]
    repeatable: bool = True
