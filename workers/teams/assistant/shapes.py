"""What the agents of team `assistant` take and make. Descriptions are part of what the model reads."""

from pydantic import BaseModel, ConfigDict, Field


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Work(Closed):
    """One step's order: all that its agent is told."""

    instruction: str = Field(
        min_length=1,
        max_length=8000,
        description="What to do, complete in itself: its reader knows neither the goal nor the other steps.",
    )
    done_when: str = Field(
        min_length=1, max_length=2000, description="What must be true of the result; a reviewer checks exactly this."
    )


class Evidence(Closed):
    claim: str = Field(min_length=1, max_length=1000, description="One statement of the answer.")
    source: str = Field(
        min_length=1,
        max_length=300,
        description="Where it is from: a source's name as the tools give it, or calculate.",
    )
    quote: str = Field(
        min_length=1, max_length=2000, description="The words of the source, exactly; or the expression and its value."
    )


class Result(Closed):
    answer: str = Field(
        min_length=1, max_length=50_000, description="What the instruction asks for, and nothing else. Markdown."
    )
    evidence: tuple[Evidence, ...] = Field(
        default=(),
        max_length=200,
        description="What each statement rests on that is taken from a source or calculated.",
    )
    missing: tuple[str, ...] = Field(
        default=(), max_length=50, description="What was asked for and could not be found. Empty where nothing is."
    )
