"""What a gate looks at."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Subject:
    """One output and what it was made from. `output`, `input` and `inputs` are JSON values.

    `inputs` are the accepted outputs of the steps this one needs, by their id in the plan. `output_schema` is the JSON
    Schema (draft 2020-12) of the agent's output, null where the agent declares none.
    """

    agent: str
    output: Any
    input: Any = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    output_schema: Mapping[str, Any] | None = None
    output_bytes_limit: int = 1_000_000


def pointer(*parts: str | int) -> str:
    """A JSON pointer (RFC 6901) into an output, at most 500 characters, as `Reason.where` wants it."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)[:500]
