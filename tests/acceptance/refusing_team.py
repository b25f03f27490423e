"""An agent that writes down that it ran, in a file, before it does or refuses its work: the proof of what ran."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from contracts import Context, Done, Unable
from contracts.teams import Agent, Schemas, Team


class Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    ledger: str
    """The file."""
    refuse: bool = False


def write_down(ctx: Context, entry: Entry) -> Done | Unable:
    with Path(entry.ledger).open("a") as ledger:
        ledger.write(f"{ctx.step.task_id} {ctx.step.key}\n")
    return Unable(reason="not with this input") if entry.refuse else Done(output={"by": str(ctx.step.task_id)})


def team() -> Team:
    return Team(
        name="refusing",
        agents={"write": Agent(call=f"{__name__}:write_down", isolation="thread")},
        schemas={"write": Schemas(input=Entry.model_json_schema())},
    )
