"""The team `patience`: agents that make their steps wait, for a person or for a time."""

import time

from contracts import Context, Done, Question, Retry
from contracts.teams import Team

FAR_SECONDS = 3600.0


def ask(ctx: Context, given: dict[str, str]) -> Done | Question:
    return Done(output=ctx.answers[-1].answer) if ctx.answers else Question(text="May I?")


def later(ctx: Context, given: dict[str, str]) -> Done | Retry:
    return Done(output="it is time") if ctx.step.attempt > 1 else Retry(reason="not yet", after_seconds=FAR_SECONDS)


def nap(ctx: Context, given: dict[str, str]) -> Done:
    """Long enough that all slots are at work at once."""
    time.sleep(0.05)
    return Done()


def team() -> Team:
    names = ("ask", "later", "nap")
    agents = {name: {"call": f"{__name__}:{name}", "isolation": "thread"} for name in names}
    return Team.model_validate({"name": "patience", "agents": agents})
