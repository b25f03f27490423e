"""What an attempt came to: a closed union. Expected things are values here; only the unexpected is raised."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from contracts.errors import Failure
from contracts.plans import Plan
from contracts.verdicts import Judgement


class Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Done(Frozen):
    """Work done. `degraded` says what is missing from the output: a partial success that does not lie."""

    type: Literal["done"] = "done"
    output: Any = None
    degraded: str | None = Field(default=None, max_length=2000)


class Planned(Frozen):
    type: Literal["planned"] = "planned"
    plan: Plan


class Judged(Frozen):
    type: Literal["judged"] = "judged"
    judgement: Judgement


class Retry(Frozen):
    """Not now: try again later. Counts as an attempt. `after_seconds` overrides the retry table's backoff."""

    type: Literal["retry"] = "retry"
    reason: str = Field(max_length=2000)
    after_seconds: float | None = Field(default=None, ge=0, le=86_400)


class Question(Frozen):
    """A person must answer before this step can go on. The step waits without holding a worker."""

    type: Literal["question"] = "question"
    text: str = Field(min_length=1, max_length=10_000)


class Unable(Frozen):
    """The agent cannot do this safely. Ends the step as dead, with the reason."""

    type: Literal["unable"] = "unable"
    reason: str = Field(min_length=1, max_length=2000)


class Failed(Frozen):
    """Something unexpected: raised, crashed, hung, over a limit. Made by the runtime, never returned by an agent.

    `after_seconds`: whoever refused the work asked to be left alone for so long; the backoff is no shorter.
    """

    type: Literal["failed"] = "failed"
    failure: Failure
    after_seconds: float | None = Field(default=None, ge=0, le=86_400)


Outcome = Annotated[
    Done | Planned | Judged | Retry | Question | Unable | Failed,
    Field(discriminator="type"),
]

OUTCOME: TypeAdapter[Outcome] = TypeAdapter(Outcome)
