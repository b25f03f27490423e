"""The team `ledger`: every body writes down that it began and that it ended, in a file that no database knows of."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from contracts import Context
from contracts.teams import Team


class Line(NamedTuple):
    """`at` is Unix time in seconds; `pid` is of the process in which the body ran."""

    event: str
    step: str
    attempt: int
    pid: int
    at: float


class Ledger:
    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: str, step: str, attempt: int) -> None:
        """One short line with one call: appending is atomic, whatever process does it."""
        line = json.dumps(Line(event, step, attempt, os.getpid(), time.time()))
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(descriptor, f"{line}\n".encode())
        finally:
            os.close(descriptor)

    def lines(self, event: str) -> list[Line]:
        if not self.path.exists():
            return []
        lines = (Line(*json.loads(line)) for line in self.path.read_text().splitlines())
        return [line for line in lines if line.event == event]


def noted(ctx: Context, given: Mapping[str, Any]) -> dict[str, int]:
    """Sleep, between two lines in `ledger`, for the `seconds` of this attempt; the last are of all that follow."""
    ledger = Ledger(Path(given["ledger"]))
    ledger.write("begun", ctx.step.id, ctx.step.attempt)
    seconds = given.get("seconds", [0])
    time.sleep(seconds[min(ctx.step.attempt, len(seconds)) - 1])
    ledger.write("ended", ctx.step.id, ctx.step.attempt)
    return {"attempt": ctx.step.attempt}


def team() -> Team:
    """Its one agent is `noted`."""
    agents = {"noted": {"call": f"{__name__}:noted", "isolation": "thread"}}
    retry = {"default": {"attempts": 5, "backoff_seconds": 0.1, "backoff_limit_seconds": 0.1}}
    return Team.model_validate({"name": "ledger", "agents": agents, "retry": retry})
