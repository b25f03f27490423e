"""A team: the agents, gates, retry rules and bounds that can do tasks. Data, validated before it is ever used."""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from contracts.llm import Limits, ModelName, ObjectName, Reference, Sampling

Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[a-z][a-z0-9_-]*$")]
QueueName = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[a-z][a-z0-9_.-]*$")]
_CALL = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")


class Role(StrEnum):
    PLANNER = "planner"
    EXECUTOR = "executor"
    REVIEWER = "reviewer"


class Kind(StrEnum):
    """What an agent's body is: a Python function, an external program speaking JSON, or a model with a prompt."""

    PYTHON = "python"
    COMMAND = "command"
    LLM = "llm"


class Isolation(StrEnum):
    """Where an agent's body runs: in a thread of the worker, or in a killable process of its own.

    An agent of kind `llm` runs on the event loop that all of a worker share, whatever this says.
    """

    THREAD = "thread"
    PROCESS = "process"


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RetryRule(Closed):
    """How one class of failure is retried: full-jitter exponential backoff, in seconds."""

    attempts: int = Field(default=3, ge=1, le=100)
    backoff_seconds: float = Field(default=1.0, ge=0, le=3600)
    backoff_limit_seconds: float = Field(default=60.0, ge=0, le=86400)


_BUILT_IN_RULES = {"model": RetryRule(attempts=8, backoff_seconds=2.0, backoff_limit_seconds=120.0)}
"""By family. A provider that is overloaded is so for minutes, and an attempt that begins again costs nothing twice."""


class Bounds(Closed):
    steps: int = Field(default=10_000, ge=1, le=100_000)
    depth: int = Field(default=100, ge=1, le=10_000)
    rejections: int = Field(default=2, ge=0, le=100)
    """How often an output (or a plan) may be sent back with reasons before its step is dead."""
    questions: int = Field(default=10, ge=0, le=1000)
    output_bytes: int = Field(default=1_000_000, ge=1, le=64_000_000)


_DEFAULTS = (None, (), Sampling(), Limits())


def _unsaid(value: object) -> bool:
    """Left out where it is not said: workers of the release before read teams that do not use it."""
    return value in _DEFAULTS


class Agent(Closed):
    role: Role = Role.EXECUTOR
    kind: Kind = Kind.PYTHON
    call: str | None = None
    """`module:function`, for kind `python`."""
    command: tuple[str, ...] | None = None
    """Program and arguments, for kind `command`; run without a shell."""
    prompt: Name | None = Field(default=None, exclude_if=_unsaid)
    """The `.md` file beside the team's file, without its ending, for kind `llm`."""
    model: ModelName | None = Field(default=None, exclude_if=_unsaid)
    """`provider:name`, for kind `llm`; the installation's default model unless given."""
    base_url: str | None = Field(default=None, max_length=1000, pattern=r"^https?://[^@\s]+$", exclude_if=_unsaid)
    """Another address than the provider's own, for compatible servers."""
    api_key: Reference | None = Field(default=None, exclude_if=_unsaid)
    """Where the worker finds the provider's key; the provider's usual variable unless given."""
    input: ObjectName | None = Field(default=None, exclude_if=_unsaid)
    """The type of the step's input, for kind `llm`: a pydantic model, a dataclass, whatever pydantic can check."""
    output: ObjectName | None = Field(default=None, exclude_if=_unsaid)
    """The type of an executor's output, for kind `llm`; text unless given."""
    tools: tuple[Name, ...] = Field(default=(), exclude_if=_unsaid)
    """What the model may call, for kind `llm`."""
    settings: Sampling = Field(default=Sampling(), exclude_if=_unsaid)
    limits: Limits = Field(default=Limits(), exclude_if=_unsaid)
    isolation: Isolation = Isolation.PROCESS
    queue: QueueName | None = None
    """Where its messages go; the queue of its role unless given."""
    review: Name | None = None
    """The reviewer of its outputs; none means that the gates alone decide."""
    gates: tuple[str, ...] = ()
    """Gates after the schema gate, cheap ones first: a built-in gate's name, or `module:function`."""
    timeout_seconds: float = Field(default=300.0, gt=0, le=86_400)
    memory_mb: int = Field(default=2048, ge=64, le=1_048_576)
    log_bytes: int = Field(default=16_000_000, ge=1024, le=1_000_000_000)
    """How much an attempt may print before it is stopped."""
    concurrency: int | None = Field(default=None, ge=1, le=100_000, exclude_if=lambda value: value is None)
    """How many of its steps may run at once, over all tasks of the team and all worker processes; unlimited if null.

    Left out where it is not said: workers of the release before read teams that do not use it.
    """
    retry: Mapping[str, RetryRule] = Field(default_factory=dict)
    """By code or by the part of it before the dot; what is not named here is looked up in the team's table."""

    @model_validator(mode="after")
    def _body(self) -> Self:
        if self.kind is Kind.PYTHON and (self.call is None or not _CALL.match(self.call)):
            raise ValueError('a python agent needs call = "module:function"')
        if self.kind is Kind.COMMAND and not self.command:
            raise ValueError('a command agent needs command = ["program", "argument", ...]')
        if self.kind is not Kind.COMMAND and self.command is not None:
            raise ValueError('command belongs to kind = "command"')
        if self.kind is not Kind.PYTHON and self.call is not None:
            raise ValueError('call belongs to kind = "python"')
        if self.kind is Kind.COMMAND and self.isolation is Isolation.THREAD:
            raise ValueError("a command agent always runs in a process of its own")
        self._check_llm()
        if self.review is not None and self.role is not Role.EXECUTOR:
            raise ValueError("only an executor's output is reviewed")
        for gate in self.gates:
            if ":" in gate and not _CALL.match(gate):
                raise ValueError(f'gate {gate!r} is neither a built-in gate nor "module:function"')
        return self

    def _check_llm(self) -> None:
        if self.kind is not Kind.LLM:
            for key in ("prompt", "model", "base_url", "api_key", "input", "output", "tools", "settings", "limits"):
                if not _unsaid(getattr(self, key)):
                    raise ValueError(f'{key} belongs to kind = "llm"')
            return
        if self.prompt is None:
            raise ValueError('an llm agent needs prompt = "name", the .md file beside the team\'s file')
        if self.model is None and (self.base_url or self.api_key):
            raise ValueError('base_url and api_key say how to reach a model: name it, model = "provider:name"')
        if self.output is not None and self.role is not Role.EXECUTOR:
            raise ValueError("output is an executor's: a planner makes a plan, a reviewer a judgement")


class Schemas(Closed):
    """JSON Schemas of one agent, read from its annotations when the team is applied; null where it has none."""

    input: dict[str, Any] | None = None
    output: dict[str, Any] | None = None


class Team(Closed):
    name: Name
    description: str = Field(default="", max_length=4000)
    agents: Mapping[Name, Agent]
    bounds: Bounds = Bounds()
    retry: Mapping[str, RetryRule] = Field(default_factory=dict)
    prompts: Mapping[str, str] = Field(default_factory=dict)
    """Text of the `.md` files beside the team's file, by name; filled in when the team is applied."""
    schemas: Mapping[Name, Schemas] = Field(default_factory=dict)
    """Filled in when the team is applied."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        planners = [name for name, agent in self.agents.items() if agent.role is Role.PLANNER]
        if len(planners) > 1:
            raise ValueError(f"a team has at most one planner; this one has {', '.join(sorted(planners))}")
        if not any(agent.role is Role.EXECUTOR for agent in self.agents.values()):
            raise ValueError("a team needs at least one executor")
        for name, agent in self.agents.items():
            if agent.prompt is not None and agent.prompt not in self.prompts:
                raise ValueError(f"agents.{name}.prompt: there is no {agent.prompt}.md beside the team's file")
            if agent.review is not None:
                reviewer = self.agents.get(agent.review)
                if reviewer is None or reviewer.role is not Role.REVIEWER:
                    raise ValueError(f"agents.{name}.review: there is no reviewer {agent.review!r} in this team")
        return self

    @property
    def planner(self) -> str | None:
        return next((name for name, agent in self.agents.items() if agent.role is Role.PLANNER), None)

    @property
    def executors(self) -> tuple[str, ...]:
        return tuple(name for name, agent in self.agents.items() if agent.role is Role.EXECUTOR)

    def retry_for(self, agent: str, code: str) -> RetryRule:
        """The rule for a failure code: the agent's, then the team's, exact code before family, then the default."""
        family = code.partition(".")[0]
        tables = [self.agents[agent].retry] if agent in self.agents else []
        for table in (*tables, self.retry):
            for key in (code, family, "default"):
                if key in table:
                    return table[key]
        return _BUILT_IN_RULES.get(family, RetryRule())
