"""What the team's file says of an agent of kind `llm`, beside what it says of every agent."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

ModelName = Annotated[str, Field(max_length=300, pattern=r"^[a-z][a-z0-9_/-]*:\S+$")]
"""`provider:name`, as pydantic-ai knows them: https://ai.pydantic.dev/models/."""
Reference = Annotated[str, Field(max_length=1000, pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:/.+)$")]
"""Where a worker finds a secret: `env:NAME` or `file:/absolute/path`. The secret itself is never in a team."""
ObjectName = Annotated[str, Field(max_length=300, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
"""`module:name`."""


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Sampling(Closed):
    """How the model is asked; what is not said is left to the provider."""

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    """Of one answer."""
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    parallel_tool_calls: bool | None = None
    silence_seconds: float = Field(default=120.0, gt=0, le=3600)
    """How long nothing may come before a call counts as failed."""
    stream: bool = True
    """Whether answers are read as they are made, which shows progress; some compatible servers cannot."""


class Limits(Closed):
    """What a step may use since it was made or last redriven, attempts together. Looked at before anything is spent."""

    turns: int = Field(default=20, ge=1, le=1000)
    """Answers of the model."""
    tool_calls: int = Field(default=50, ge=0, le=10_000)
    input_tokens: int = Field(default=1_000_000, ge=1)
    output_tokens: int = Field(default=100_000, ge=1)
    identical_requests: int = Field(default=3, ge=1, le=1000)
    """How often the model may ask for the same thing: the same tool with the same arguments."""
    unparsable_answers: int = Field(default=3, ge=0, le=100)
    """How often in a row the model may be told that its answer could not be used."""
