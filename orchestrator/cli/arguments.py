"""Arguments that hold data: `@file.json`, `@-` for standard input, `key=value`."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from contracts.errors import InvalidInput

_AGE = re.compile(r"([0-9]{1,6})([smhdw])")
_UNITS: Mapping[str, str] = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def read_object(argument: str, option: str) -> dict[str, Any]:
    """The JSON object of `@file` or `@-`, or of the argument itself. Raises `InvalidInput`."""
    text = _read(argument[1:], option) if argument.startswith("@") else argument
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{option}: {argument[:100]} does not hold valid JSON ({error})", field=option) from None
    if not isinstance(value, dict):
        raise InvalidInput(f"{option}: {argument[:100]} must hold a JSON object, like {{...}}", field=option)
    return value


def read_input(arguments: Sequence[str]) -> dict[str, Any]:
    """`@file.json` and `key=value`, later ones over earlier ones; a value is JSON where it parses, else text."""
    found: dict[str, Any] = {}
    for argument in arguments:
        if argument.startswith(("@", "{")):
            found |= read_object(argument, "--input")
            continue
        name, equals, value = argument.partition("=")
        if not equals or not name:
            text = f"--input: {argument[:100]!r} is neither @file.json nor key=value"
            raise InvalidInput(text, field="--input")
        found[name] = _value(value)
    return found


def read_labels(arguments: Sequence[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or not name:
            raise InvalidInput(f"--label: {argument[:100]!r} is not name=value", field="--label")
        labels[name] = value
    return labels


def read_moment(text: str | None, option: str) -> datetime | None:
    """`2026-11-21T14:00` (local unless it says otherwise), or an age: `90s`, `15m`, `2h`, `3d`, `1w`."""
    if text is None:
        return None
    age = _AGE.fullmatch(text)
    try:
        if age:
            return datetime.now(UTC) - timedelta(**{_UNITS[age[2]]: int(age[1])})
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        words = f"{option}: {text[:50]!r} is neither a time like 2026-11-21T14:00 nor an age like 90s, 15m, 2h, 3d"
        raise InvalidInput(words, field=option) from None


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _read(name: str, option: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InvalidInput(f"{option}: cannot read {name or 'a file without a name'}: {reason}", field=option) from None
