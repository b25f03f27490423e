"""What gates and reviewers say of an output."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class Result(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    ABSTAIN = "abstain"


class Reason(BaseModel):
    """One thing that is wrong: a code, where (a path into the output, a file and line), what, and what was expected.

    Reasons are what the next attempt gets to read, so they are data and short, never a stack trace.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: str = Field(max_length=100)
    where: str = Field(default="", max_length=500)
    text: str = Field(max_length=2000)
    expected: str | None = Field(default=None, max_length=2000)


class Verdict(BaseModel):
    """One run of one gate. Only `pass` lets anything through; a gate that could not decide abstains."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gate: str = Field(max_length=200)
    version: int = 1
    result: Result
    reasons: tuple[Reason, ...] = Field(default=(), max_length=100)
    seconds: float = 0.0


class Judgement(BaseModel):
    """What a reviewer agent returns. It may lower trust, and never overrides a failed gate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    accepted: bool
    reasons: tuple[Reason, ...] = Field(default=(), max_length=100)

    @classmethod
    def accept(cls) -> "Judgement":
        return cls(accepted=True)

    @classmethod
    def reject(cls, *texts: str) -> "Judgement":
        return cls(accepted=False, reasons=tuple(Reason(code="review.rejected", text=text) for text in texts))
