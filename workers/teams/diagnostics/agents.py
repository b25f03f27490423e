"""Agents that do one thing each, most of them something bad: to try an installation, for load, and for tests."""

import os
import signal
import time
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field

from contracts import ArtifactRef, Context, Judgement, Question, Reason, Unable

MEGABYTE = 1024 * 1024
CHUNK = b"x" * 65_535 + b"\n"
REFUSED = "review.diagnostic"


class Input(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Sleep(Input):
    seconds: float = Field(ge=0, le=86_400)


class Fail(Input):
    """`times`: how many attempts fail before one succeeds. `code` must begin with `agent.`"""

    times: int = Field(default=1, ge=0)
    code: str = Field(default="agent.diagnostic", pattern=r"^agent\.[a-z0-9_.]{1,90}$")
    retryable: bool = True


class Crash(Input):
    times: int = Field(default=1, ge=0)


class Size(Input):
    size: int = Field(ge=0, le=1024 * MEGABYTE)


class Leak(Input):
    megabytes: int = Field(default=4096, ge=0)


class Print(Input):
    bytes: int = Field(default=1_000_000_000, ge=0)


class Fork(Input):
    children: int = Field(default=3, ge=0, le=100)


class Ask(Input):
    question: str = Field(min_length=1, max_length=10_000)


class Refuse(Input):
    reason: str = Field(default="asked to refuse", min_length=1, max_length=2000)


class Reviewed(Input):
    """`reject_times`: how often the reviewer refuses before it accepts."""

    value: Any = None
    reject_times: int = Field(default=0, ge=0)


class Draft(BaseModel):
    value: Any
    revision: int


class DiagnosticFailure(Exception):
    """What `fail` raises: the runtime takes the attempt's code, and whether to retry, from it."""

    def __init__(self, code: str, retryable: bool) -> None:
        super().__init__(f"failing on purpose with {code}")
        self.code = code
        self.retryable = retryable


def echo(ctx: Context, value: Any) -> Any:
    """Its input; where it has none, what the steps it needs returned."""
    return value or dict(ctx.inputs)


def sleep(_ctx: Context, given: Sleep) -> Sleep:
    time.sleep(given.seconds)
    return given


def fail(ctx: Context, given: Fail) -> Fail:
    if ctx.step.attempt <= given.times:
        raise DiagnosticFailure(given.code, given.retryable)
    return given


def crash(ctx: Context, given: Crash) -> Crash:
    """Kill its own process, as a fault in a C extension would."""
    if ctx.step.attempt <= given.times:
        os.kill(os.getpid(), signal.SIGKILL)
    return given


def hang(_ctx: Context) -> None:
    _hang_forever()


def make_bytes(ctx: Context, given: Size) -> ArtifactRef:
    """An artifact of `size` bytes, the same ones every time."""
    whole, rest = divmod(given.size, len(CHUNK))
    return ctx.artifacts.put(CHUNK * whole + CHUNK[:rest], "text/plain")


def leak(ctx: Context, given: Leak) -> dict[str, int]:
    """Take memory and use it: pages that are never written cost nothing."""
    held = []
    for taken in range(given.megabytes):
        held.append(bytearray(b"x") * MEGABYTE)
        if taken % 256 == 0:
            ctx.progress(f"holding {taken} MB")
    return {"megabytes": len(held)}


def print_much(_ctx: Context, given: Print) -> dict[str, int]:
    left = given.bytes
    while left > 0:
        left -= os.write(1, CHUNK[: min(left, len(CHUNK))])
    return {"bytes": given.bytes}


def fork(_ctx: Context, given: Fork) -> dict[str, list[int]]:
    """Leave children behind that never end by themselves, and return their process ids."""
    return {"children": [_fork_one() for _ in range(given.children)]}


def _fork_one() -> int:
    child = os.fork()
    if child:
        return child
    try:
        _hang_forever()
    finally:
        os._exit(0)


def _hang_forever() -> NoReturn:
    while True:
        signal.pause()


def ask(ctx: Context, given: Ask) -> dict[str, str] | Question:
    for answer in ctx.answers:
        if answer.question == given.question:
            return {"question": answer.question, "answer": answer.answer}
    return Question(text=given.question)


def refuse(_ctx: Context, given: Refuse) -> Unable:
    return Unable(reason=given.reason)


def draft(ctx: Context, given: Reviewed) -> Draft:
    """Its value, and which revision this is: one more than the reviewer last refused."""
    refused = [int(reason.expected or 0) for reason in ctx.feedback if reason.code == REFUSED]
    return Draft(value=given.value, revision=max(refused, default=1))


def review(ctx: Context, output: Draft) -> Judgement:
    """Refuse as often as the step's input says. The reason carries the next revision's number."""
    wanted = Reviewed.model_validate(ctx.input).reject_times
    if output.revision > wanted:
        return Judgement.accept()
    text = f"refused on purpose, {output.revision} of {wanted}"
    return Judgement(accepted=False, reasons=(Reason(code=REFUSED, text=text, expected=str(output.revision + 1)),))
