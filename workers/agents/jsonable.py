"""Values as JSON that Postgres can store: what cannot be is refused with the path of the culprit."""

import math
from collections.abc import Iterator
from typing import Any

from pydantic_core import to_json, to_jsonable_python

_SUSPICIOUS = (b"\\u0000", b"NaN", b"Infinity")
"""How what cannot be stored looks in JSON; text that only says so looks the same."""


class NotStorable(Exception):
    """The value is no JSON that Postgres stores; the message names where and why, without the value."""


def to_json_value(value: Any) -> Any:
    """Models, dataclasses, dates and the like as plain JSON values. Raises `NotStorable`."""
    try:
        return to_jsonable_python(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise NotStorable(f"the output is not JSON: {_first_line(error)}") from error


def check_storable(value: Any) -> None:
    """Refuse NUL characters and lone surrogates (no jsonb), NaN and infinities (no JSON). Raises `NotStorable`.

    The one dump is the fast way; the slow walk that finds the path runs only when there is something to find.
    """
    try:
        body = to_json(value)
    except (ValueError, TypeError, RecursionError) as error:
        wrong = next(_walk(value, ""), None)
        raise NotStorable(wrong or f"the output is not JSON: {_first_line(error)}") from error
    if any(each in body for each in _SUSPICIOUS) and (wrong := next(_walk(value, ""), None)):
        raise NotStorable(wrong)


def _walk(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, str):
        wrong = _check_text(value)
        if wrong:
            yield f"{where or 'the output'} holds {wrong}"
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{where or 'the output'} is {value}, which JSON cannot express"
    elif isinstance(value, dict):
        for key, each in value.items():
            if wrong := _check_text(str(key)):
                yield f"a key of {where or 'the output'} holds {wrong}"
            yield from _walk(each, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _walk(each, f"{where}.{index}" if where else str(index))


def _check_text(text: str) -> str | None:
    if "\0" in text:
        return "a NUL character (\\u0000), which cannot be stored"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half of a surrogate pair, which is not a character"
    return None


def clean_text(text: str, limit: int) -> str:
    """Text for a failure: at most `limit` characters, and none that cannot be stored."""
    return text[:limit].replace("\0", "\\0").encode(errors="backslashreplace").decode()[:limit]


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:300]
