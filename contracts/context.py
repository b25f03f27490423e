"""What an agent's function gets to use, and nothing else."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from contracts.assignments import Answer
from contracts.verdicts import Reason


class ArtifactRef(BaseModel):
    """Content-addressed bytes: what travels in outputs instead of the bytes themselves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)
    media_type: str = Field(default="application/octet-stream", max_length=200)


class Artifacts(Protocol):
    """Bytes of any size, by content; an agent sees its own tenant's only."""

    def put(self, data: bytes, media_type: str = "application/octet-stream") -> ArtifactRef: ...

    def get(self, ref: ArtifactRef | str) -> bytes:
        """The bytes of a reference or of a sha256 in hex. Raises `NotFound`."""
        ...


class Progress(Protocol):
    def __call__(self, text: str, fraction: float | None = None) -> None: ...


@dataclass(frozen=True)
class StepView:
    """Who is running: the step's id in its plan, the ids people see, and which attempt this is (from 1)."""

    key: str
    id: str
    task_id: str
    agent: str
    attempt: int


@dataclass(frozen=True)
class Context:
    """Handed to every agent as its first argument.

    `inputs` are the accepted outputs of the steps this one needs, by their id in the plan. `feedback` is why an
    earlier output was refused; `answers` are what people answered to this step's questions. `deadline` is a Unix
    time after which the attempt is stopped. `input` and `goal` are the step's raw input and the task's goal, for
    agents (reviewers above all) whose second argument is something else.
    """

    step: StepView
    goal: str
    input: Any
    artifacts: Artifacts
    progress: Progress
    deadline: float
    inputs: Mapping[str, Any] = field(default_factory=dict)
    feedback: tuple[Reason, ...] = ()
    answers: tuple[Answer, ...] = ()
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("agent"))
