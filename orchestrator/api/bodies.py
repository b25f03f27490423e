"""Request bodies: read with a limit, and refused, with the field named, before anything of ours can choke on them."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from contracts.errors import InvalidInput
from orchestrator.api.limits import Limits
from orchestrator.api.problems import invalid_fields
from orchestrator.refusals import Malformed, TooLarge, TooSlow, UnsupportedMediaType

M = TypeVar("M", bound=BaseModel)

READ_SECONDS = 30.0
_INTEGER_LIMIT = 2**63
_DIGITS_LIMIT = 25
_SHOWN = 200
_DRAIN_FACTOR = 8
"""A body this many times too large is still read and dropped, so that its sender gets to see the answer."""
_CHARSET = re.compile(r"charset\s*=\s*\"?([^\s;\"]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Received:
    """A body as it arrived, with what it may hold."""

    data: bytes
    limits: Limits


async def read_body(request: Request, limits: Limits) -> Received:
    """The whole body. Raises `TooLarge`, `TooSlow`, `UnsupportedMediaType` or `Malformed`."""
    _require_json(request)
    try:
        async with asyncio.timeout(READ_SECONDS):
            return Received(await _collect(request.stream(), limits.body_bytes), limits)
    except TimeoutError:
        raise TooSlow(f"the body did not arrive within {READ_SECONDS:.0f} seconds; send it again") from None


def parse(body: Received) -> Any:
    """The JSON value of a body. Raises `Malformed` where it is not JSON."""
    try:
        text = body.data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed(f"the body is not valid UTF-8 (byte {error.start}); send UTF-8") from None
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_int=_integer, object_pairs_hook=_object)
    except RecursionError:
        raise InvalidInput(_too_deep(body.limits)) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Malformed(f"the body is not valid JSON: {error.msg} ({where})") from None


def check_form(value: Any, limits: Limits, path: str = "", depth: int = 1) -> None:
    """Raises `InvalidInput` for what Postgres or JSON readers cannot hold: depth, NUL, surrogates, huge numbers; and
    for an object with one key twice, of which readers keep different ones."""
    if isinstance(value, str):
        _check_text(value, limits, path)
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, int):
        if not -_INTEGER_LIMIT <= value < _INTEGER_LIMIT:
            raise InvalidInput(f"{path}: an integer must fit in 64 bits; send a larger one as text", field=path)
    elif isinstance(value, float):
        if value in (float("inf"), float("-inf")):
            raise InvalidInput(f"{path}: this number is too large; send it as text", field=path)
    else:
        if depth > limits.json_depth:
            where = ".".join(path.split(".")[:2])
            raise InvalidInput(f"{where}: {_too_deep(limits)}", field=where)
        if isinstance(value, _Repeating):
            _check_text(value.repeated, limits, path)
            where = f"{path}.{value.repeated}" if path else value.repeated
            raise InvalidInput(f"{where[:_SHOWN]}: this key is there more than once; send it once", field=where)
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(key, str):
                _check_text(key, limits, path)
            check_form(item, limits, f"{path}.{key}" if path else str(key), depth + 1)


def parse_model(body: Received, model: type[M]) -> M:
    """A body as a model. Raises `InvalidInput` that names the fields."""
    value = parse(body)
    check_form(value, body.limits)
    return validate(value, model)


def validate(value: Any, model: type[M]) -> M:
    if not isinstance(value, dict):
        raise InvalidInput(f"the body must be a JSON object, not {_json_type(value)}")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid_fields(error) from None


class _Repeating(dict[str, Any]):
    """An object in which the key `repeated` is there more than once: kept until `check_form` can say where."""

    repeated: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    seen: set[str] = set()
    repeating = _Repeating(made)
    for key, _ in pairs:
        if key in seen:
            repeating.repeated = key
            break
        seen.add(key)
    return repeating


def _integer(digits: str) -> int:
    """Python refuses to read thousands of digits; we refuse all that have more than 64 bits, once we know where."""
    return int(digits) if len(digits) <= _DIGITS_LIMIT else _INTEGER_LIMIT


async def _collect(stream: AsyncIterator[bytes], limit_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in stream:
        size += len(chunk)
        if size <= limit_bytes:
            chunks.append(chunk)
        elif size > limit_bytes * _DRAIN_FACTOR:
            break
        else:
            chunks.clear()
    if size > limit_bytes:
        raise TooLarge(
            f"the body is larger than {limit_bytes} bytes; send large data as several tasks, or raise max_body_bytes"
        )
    return b"".join(chunks)


def _require_json(request: Request) -> None:
    header = request.headers.get("content-type", "")
    media_type = header.partition(";")[0].strip().lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise UnsupportedMediaType(
            f"the body must be JSON: send `Content-Type: application/json`, not {header[:100]!r}"
        )
    charset = _CHARSET.search(header)
    if charset and charset.group(1).lower() not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType("JSON is UTF-8; send it so and leave the charset out")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("compressed bodies are not accepted; send it without Content-Encoding")


def _check_text(text: str, limits: Limits, path: str) -> None:
    if len(text) > limits.string_length:
        words = f"text is at most {limits.string_length} characters (max_string_length), not {len(text)}; split it"
        raise InvalidInput(f"{path or 'a key'}: {words}, or give an artifact's or file's name", field=path)
    if "\x00" in text:
        raise InvalidInput(f"{path or 'a key'}: text must not contain NUL; remove it or send base64", field=path)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = f"{path or 'a key'}: text holds half of a surrogate pair; send valid Unicode"
        raise InvalidInput(text, field=path) from None


def _refuse_constant(name: str) -> None:
    raise json.JSONDecodeError(f"{name} is not JSON; use null or text", name, 0)


def _too_deep(limits: Limits) -> str:
    return f"the body is nested deeper than {limits.json_depth} levels (max_json_depth); flatten it or send it as text"


def _json_type(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    return "null" if value is None else f"a {type(value).__name__}"
