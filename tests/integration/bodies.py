"""Agents and a gate for tests of delivery: they say that they run, and go on when the test lets them."""

import threading
import time
from pathlib import Path
from typing import Any

from contracts.verdicts import Judgement, Reason, Result, Verdict
from workers.gates.subject import Subject


def hold(ctx: Any, input: dict[str, str]) -> str:
    """Writes its step's key into `begun`, then waits for the file `open`, or for one of its own."""
    folder = Path(input["folder"])
    write(folder / "begun", ctx.step.key)
    doors = (folder / "open", folder / f"open-{ctx.step.key}")
    # Longer than any timeout of these tests: a body that hangs does not look at its deadline.
    late = time.monotonic() + 60
    while not any(door.exists() for door in doors) and time.monotonic() < late:
        threading.Event().wait(0.01)
    write(folder / "ended", ctx.step.key)
    return str(ctx.step.key)


def judge(ctx: Any, proposal: Any) -> Judgement:
    del ctx, proposal
    return Judgement.accept()


def misprint(subject: Subject) -> Verdict:
    """Passes, with a remark that Postgres cannot store where the output is `bad`."""
    folder = Path(subject.input["folder"])
    write(folder / "checked", str(subject.output))
    text = "\x00" if subject.output == "bad" else "fine"
    return Verdict(gate="", result=Result.PASS, reasons=(Reason(code="gate.remark", text=text),))


def write(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")


def read(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
