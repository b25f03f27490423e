"""An agent whose provider is away while a file is there."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from contracts import Context


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")

    away: str
    """The file."""


def ask_provider(ctx: Context, asked: Asked) -> dict[str, Any]:
    if Path(asked.away).exists():
        raise ConnectionError("the provider is away")
    return {"answered": ctx.step.key}
