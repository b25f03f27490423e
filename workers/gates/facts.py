"""Claims about files that anyone can check by opening the file. The gate `files` checks every one of them.

A path is relative to the surveyed root, with `/` between its parts; bytes of a name that are not UTF-8 and control
characters are written `\\xNN`, and a backslash of the name itself is doubled. Lines are counted from 1 and end as in
Python's universal newlines: at `\\n`, `\\r\\n` or `\\r`, and at nothing else.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

TEXT_LIMIT = 300
"""A fact quotes a line up to this many characters; of a longer line, exactly so many."""

SpelledPath = Annotated[str, Field(min_length=1, max_length=20_000)]

ProblemCode = Literal[
    "missing",
    "symlink",
    "symlink_broken",
    "symlink_outside",
    "not_regular",
    "denied",
    "too_large",
    "nul_bytes",
    "encoding",
    "syntax",
]


class Claim(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    path: SpelledPath


class Fact(Claim):
    """This line of this file has this text."""

    line: int = Field(ge=1)
    text: str = Field(max_length=TEXT_LIMIT)


class FileFact(Claim):
    """This file has so many bytes, this digest and, where it is text, so many lines."""

    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    line_count: int | None = Field(default=None, ge=0)


class Problem(Claim):
    """This file cannot be read (or, `syntax`, not be parsed). `text` is for people; the gate checks the code."""

    problem: ProblemCode
    text: str = Field(max_length=500)
