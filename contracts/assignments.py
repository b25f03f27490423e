"""What a successful claim hands to a worker: everything one attempt may know, and the token that fences it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from contracts.teams import Role
from contracts.verdicts import Reason


class Answer(BaseModel):
    """A question this step asked earlier, and what a person answered."""

    model_config = ConfigDict(frozen=True)

    question: str
    answer: str


class Assignment(BaseModel):
    """`(step_id, epoch)` names the attempt. `attempt` counts from 1 since the step was last made ready by anything
    but a failure; `rejections` and `questions` count over the step's life since the last redrive."""

    model_config = ConfigDict(frozen=True)

    tenant: str
    task_id: UUID
    step_id: UUID
    epoch: int
    key: str
    role: Role
    agent: str
    team_digest: str
    attempt: int
    rejections: int
    questions: int
    goal: str = ""
    input: Any = None
    inputs: Mapping[str, Any] = {}
    """Accepted outputs of the steps this one needs, by their id in the plan."""
    proposal: Any = None
    """The output under review; null unless the role is reviewer."""
    feedback: tuple[Reason, ...] = ()
    answers: tuple[Answer, ...] = ()
    reviewer: str | None = None
    """The agent that will review the output; null where the gates alone decide."""
    has_dependents: bool = False
    task_deadline_at: datetime | None = None
    traceparent: str | None = None
    waited_seconds: float = 0.0
    """How long the step was ready before it was claimed, by the database's clock."""
