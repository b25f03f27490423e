"""How an attempt is settled: the decision, made before anything is written, as a closed union.

`policy.decide` makes one from an outcome; `shared_state.attempts.settle` writes it in one transaction.
"""

from typing import Any, Literal

from contracts.errors import Failure
from contracts.outcomes import Frozen
from contracts.plans import Plan
from contracts.verdicts import Reason, Verdict


class Accept(Frozen):
    """The output passed its gates and needs no review: it becomes readable by the steps that need it."""

    type: Literal["accept"] = "accept"
    output: Any
    degraded: str | None = None
    verdicts: tuple[Verdict, ...] = ()


class AcceptPlan(Frozen):
    """The plan passed: its steps are created and the first of them are ready."""

    type: Literal["accept_plan"] = "accept_plan"
    plan: Plan
    verdicts: tuple[Verdict, ...] = ()


class Propose(Frozen):
    """The output passed its gates and now waits, in quarantine, for the reviewer."""

    type: Literal["propose"] = "propose"
    output: Any
    degraded: str | None = None
    verdicts: tuple[Verdict, ...] = ()


class Approve(Frozen):
    """The reviewer accepted the proposed output."""

    type: Literal["approve"] = "approve"


class Return(Frozen):
    """Back to the queue: after a failure (`failure`), or because the output was refused (`feedback`).

    `to` is `reviewing` where it was the reviewer's attempt that failed: the proposal stays and is reviewed again.
    """

    type: Literal["return"] = "return"
    to: Literal["ready", "reviewing"] = "ready"
    after_seconds: float = 0.0
    failure: Failure
    rejected: bool = False
    counted: bool = True
    """False where the step had no part in it: the attempt does not count against the step's bound."""
    output: Any = None
    """The refused output, kept in quarantine for people to read; null after a failure."""
    feedback: tuple[Reason, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    expired: bool = False
    """Written by whoever found the lease lapsed: holds only if the lease is still lapsed when it is written."""


class Bury(Frozen):
    """Given up: the step is dead, a dead letter is opened, what needed it is skipped (unless it was optional)."""

    type: Literal["bury"] = "bury"
    failure: Failure
    output: Any = None
    feedback: tuple[Reason, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    expired: bool = False


class Ask(Frozen):
    """Wait for a person's answer; the lease is dropped and nothing is held meanwhile."""

    type: Literal["ask"] = "ask"
    text: str


class Abandon(Frozen):
    """The task was cancelled while the attempt ran."""

    type: Literal["abandon"] = "abandon"
    expired: bool = False


Settlement = Accept | AcceptPlan | Propose | Approve | Return | Bury | Ask | Abandon
