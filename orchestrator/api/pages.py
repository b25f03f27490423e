"""Keyset pages: a page is cut by the last key of the one before it, so growth in between neither skips nor repeats."""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from contracts.errors import InvalidInput

T = TypeVar("T")

LIMIT_DEFAULT = 50
LIMIT_MAX = 10_000
"""What any setting may allow; what this one does is checked with the caller (`limits.py`)."""


class Page(TypedDict, Generic[T]):
    """`next_cursor` is null on the last page; otherwise send it as `cursor` to get the next one."""

    items: list[T]
    next_cursor: str | None


class PageQuery(BaseModel):
    """What every listing understands; anything else in the query is refused."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX)] = LIMIT_DEFAULT
    cursor: Annotated[str | None, Field(max_length=500)] = None


def cut(rows: Sequence[T], limit: int, key: Callable[[T], str]) -> Page[T]:
    """A page from rows of which one more than `limit` was asked for."""
    items = list(rows[:limit])
    return {"items": items, "next_cursor": key(items[-1]) if len(rows) > limit else None}


def id_cursor(cursor: str | None) -> UUID | None:
    try:
        return UUID(cursor) if cursor else None
    except ValueError:
        raise _bad_cursor() from None


def rank_cursor(cursor: str | None) -> tuple[int, str] | None:
    """The rank and key that `make_rank_cursor` put into a cursor."""
    if not cursor:
        return None
    try:
        rank, key = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, TypeError):
        raise _bad_cursor() from None
    if type(rank) is not int or not 0 <= rank < 2**31 or not isinstance(key, str) or not key.isprintable():
        raise _bad_cursor()
    return rank, key


def make_rank_cursor(rank: int, key: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([rank, key]).encode()).decode()


def _bad_cursor() -> InvalidInput:
    return InvalidInput("cursor: not one of ours; copy next_cursor of the page before, or leave it out", field="cursor")
