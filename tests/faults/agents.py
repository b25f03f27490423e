"""The team `faults`: agents that write down, in a file outside the database, that they ran and what they saw.

Every run of a body makes a new random nonce and returns it. Who needs the step's output sees the accepted nonce; two
different nonces of one step, seen anywhere, are a double commit that no row of the database could hide.
"""

import json
import os
import secrets
import signal
import time
from typing import Any

from pydantic import BaseModel, ConfigDict

from contracts import Context, Judgement, Plan, Step
from contracts.teams import Team


class Given(BaseModel):
    """`ledger` is the file; `nap_seconds` how long a body takes; `tick_seconds` > 0 has it write that it still runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ledger: str
    nap_seconds: float = 0.0
    tick_seconds: float = 0.0


def work(ctx: Context, given: Given) -> dict[str, Any]:
    nonce = secrets.token_hex(6)
    saw = {key: output["nonce"] for key, output in ctx.inputs.items()}
    note(given.ledger, ctx, "began", nonce=nonce, saw=saw)
    deadline = time.monotonic() + given.nap_seconds
    while given.tick_seconds and time.monotonic() < deadline:
        note(given.ledger, ctx, "ticks")
        time.sleep(given.tick_seconds)
    time.sleep(max(0.0, deadline - time.monotonic()))
    return {"nonce": nonce}


def plan(ctx: Context, given: Given) -> Plan:
    """Three drafts that are reviewed, and one step that needs them all."""
    note(given.ledger, ctx, "began", nonce=secrets.token_hex(6), saw={})
    time.sleep(given.nap_seconds)
    own = given.model_dump()
    drafts = tuple(Step(id=f"draft{number}", agent="draft", input=own) for number in range(3))
    join = Step(id="join", agent="work", needs=tuple(each.id for each in drafts), input=own)
    return Plan(steps=(*drafts, join))


def review(ctx: Context, output: dict[str, Any]) -> Judgement:
    given = Given.model_validate(ctx.input)
    note(given.ledger, ctx, "reviewed", nonce=output["nonce"])
    time.sleep(given.nap_seconds)
    return Judgement.accept()


def die(ctx: Context, given: Given) -> None:
    """Kill the process it runs in: in a thread that is the worker itself."""
    note(given.ledger, ctx, "began", nonce=secrets.token_hex(6), saw={})
    os.kill(os.getpid(), signal.SIGKILL)


def hang(ctx: Context, given: Given) -> None:
    """For ever, deaf to SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(given.ledger, ctx, "began", nonce=secrets.token_hex(6), saw={})
    while True:
        note(given.ledger, ctx, "ticks")
        time.sleep(0.2)


def hoard(ctx: Context, given: Given) -> None:
    """Take memory until there is none."""
    note(given.ledger, ctx, "began", nonce=secrets.token_hex(6), saw={})
    held = []
    while True:
        held.append(bytearray(b"x") * (16 * 1024 * 1024))


def note(ledger: str, ctx: Context, what: str, **more: Any) -> None:
    """One line, written at once: appending is atomic, and the page cache outlives every process that may be killed."""
    entry = {"what": what, "task": ctx.step.task_id, "step": ctx.step.key, "attempt": ctx.step.attempt}
    line = json.dumps({**entry, "pid": os.getpid(), "at": time.time(), **more}) + "\n"
    descriptor = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def team() -> Team:
    """Attempts enough that being killed again and again ends no step; poison gets three."""
    here = __name__
    thread = {"isolation": "thread"}
    agents: dict[str, dict[str, Any]] = {
        "planner": {"role": "planner", "call": f"{here}:plan", **thread},
        "work": {"call": f"{here}:work", **thread},
        "work_apart": {"call": f"{here}:work", "isolation": "process"},
        "draft": {"call": f"{here}:work", **thread, "review": "reviewer"},
        "reviewer": {"role": "reviewer", "call": f"{here}:review", **thread},
        "die": {"call": f"{here}:die", **thread, "retry": {"default": {"attempts": 3, "backoff_seconds": 0.2}}},
        "hang": {
            "call": f"{here}:hang",
            "timeout_seconds": 2,
            "retry": {"default": {"attempts": 2, "backoff_seconds": 0.2}},
        },
        "hoard": {
            "call": f"{here}:hoard",
            "memory_mb": 256,
            "timeout_seconds": 20,
            "retry": {"default": {"attempts": 2, "backoff_seconds": 0.2}},
        },
    }
    retry = {"default": {"attempts": 100, "backoff_seconds": 0.2, "backoff_limit_seconds": 1.0}}
    return Team.model_validate({"name": "faults", "agents": agents, "retry": retry})
