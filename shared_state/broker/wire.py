"""How one message lies on a queue: a Celery protocol 2 message that we make ourselves and check field by field.

`pack` is the only maker and `unpack` the only reader, so `unpack` may refuse everything that `pack` does not make:
an `eta`, an `expires`, a `timelimit`, a callback, a second argument. What Celery would do with such a field (hold the
message in memory, crash, run forever) is then not a question.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from contracts.errors import InvalidMessage
from contracts.messages import Message, SigningKeys, decode, encode
from contracts.topology import HANDLER_OF_KIND

CONTENT_TYPE = "application/json"
CONTENT_ENCODING = "utf-8"
BODY_LIMIT_BYTES = 8192
"""A signed message of 2 KB inside Celery's wrapping stays far below this."""

_EMBED: Mapping[str, None] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_CONSTANT: Mapping[str, object] = {
    "lang": "py",
    "shadow": None,
    "eta": None,
    "expires": None,
    "group": None,
    "group_index": None,
    "retries": 0,
    "timelimit": [None, None],
    "parent_id": None,
    "kwargsrepr": "{}",
    "ignore_result": True,
    "replaced_task_nesting": 0,
    "stamped_headers": None,
    "stamps": {},
}
_TEXT_LIMITS: Mapping[str, int] = {"argsrepr": 200, "origin": 200}
_OPTIONAL_TEXT_LIMITS: Mapping[str, int] = {"traceparent": 64}
_NAMES = frozenset({"task", "id", "root_id", *_CONSTANT, *_TEXT_LIMITS, *_OPTIONAL_TEXT_LIMITS})
_BROKER_NAMES = frozenset({"redelivered"})
"""Headers that brokers and their clients add on redelivery, beside RabbitMQ's `x-...`."""


@dataclass(frozen=True)
class Packed:
    """`body` is JSON in UTF-8; `headers` are Celery's. Both are what `kombu.Producer.publish` takes."""

    queue: str
    body: bytes
    headers: dict[str, object]


class CheckedEnvelope(dict[str, object]):
    """An envelope that `unpack` has checked, with the message in it. Only code can make one: JSON never reads as one,
    so whoever is handed one may trust it, and need not check it again."""

    def __init__(self, envelope: Mapping[str, object], message: Message) -> None:
        super().__init__(envelope)
        self.message = message


def pack(message: Message, keys: SigningKeys, origin: str) -> Packed:
    """Sign and wrap. Raises `ValueError` where the message is larger than its limit."""
    identity = str(message.id)
    headers: dict[str, object] = {
        **_CONSTANT,
        "task": HANDLER_OF_KIND[message.kind],
        "id": identity,
        "root_id": identity,
        "argsrepr": summary(message),
        "origin": origin[: _TEXT_LIMITS["origin"]],
    }
    if message.traceparent is not None:
        headers["traceparent"] = message.traceparent
    body = json.dumps([[encode(message, keys)], {}, _EMBED], separators=(",", ":"))
    return Packed(queue=message.queue, body=body.encode(), headers=headers)


def summary(message: Message) -> str:
    """What Flower and the worker's log show in place of arguments: `execute 3 steps 0193ab.. e2`."""
    first = message.steps[0]
    count = len(message.steps)
    return f"{message.kind} {count} step{'' if count == 1 else 's'} {str(first.id)[:13]}.. e{first.epoch}"


def unpack(
    *, queue: str, body: object, headers: object, content_type: object, content_encoding: object, keys: SigningKeys
) -> CheckedEnvelope:
    """Check everything about a message that came from `queue`. Raises `InvalidMessage` with a `message.*` code."""
    if not isinstance(body, bytes | bytearray | memoryview | str):
        raise InvalidMessage("message.envelope", "the message has no body")
    if len(body) > BODY_LIMIT_BYTES:
        raise InvalidMessage("message.too_large", f"the body is larger than {BODY_LIMIT_BYTES} bytes")
    if content_type != CONTENT_TYPE:
        raise InvalidMessage("message.undecodable", f"the content type must be {CONTENT_TYPE}")
    if not isinstance(content_encoding, str) or content_encoding.lower() != CONTENT_ENCODING:
        raise InvalidMessage("message.undecodable", f"the content encoding must be {CONTENT_ENCODING}")
    envelope = _envelope_of(body)
    message = decode(envelope, keys)
    if message.queue != queue:
        raise InvalidMessage("message.envelope", "the message was signed for another queue")
    _check_headers(headers, message)
    return CheckedEnvelope(envelope, message)


def message_in(envelope: object, keys: SigningKeys) -> Message:
    """What a handler was given. Raises `InvalidMessage` where nobody has checked it and it is none of ours."""
    return envelope.message if isinstance(envelope, CheckedEnvelope) else decode(envelope, keys)


def call_of(envelope: CheckedEnvelope) -> list[object]:
    """A body as Celery reads it: arguments, keywords, options."""
    return [[envelope], {}, dict(_EMBED)]


def _check_headers(headers: object, message: Message) -> None:
    """Every header must be one that `pack` makes for this message, or one that a broker adds."""
    if not isinstance(headers, dict):
        raise InvalidMessage("message.envelope", "the message has no headers")
    handler = headers.get("task")
    if not isinstance(handler, str):
        raise InvalidMessage("message.envelope", "the message names no handler")
    if handler not in HANDLER_OF_KIND.values():
        raise InvalidMessage("message.handler", "the message names a handler that is not ours")
    if HANDLER_OF_KIND[message.kind] != handler:
        raise InvalidMessage("message.handler", f"a message of kind {message.kind.value!r} is not for {handler!r}")
    for name in ("id", "root_id"):
        if headers.get(name) != str(message.id):
            raise InvalidMessage("message.envelope", f"header {name}: must be the id of the signed message")
    for name, value in _CONSTANT.items():
        if name not in headers or not _same(headers[name], value):
            raise InvalidMessage("message.envelope", f"header {name}: must be {json.dumps(value)}")
    for name, limit in _TEXT_LIMITS.items():
        if not _is_text(headers.get(name), limit):
            raise InvalidMessage(
                "message.envelope", f"header {name}: must be printable text of at most {limit} characters"
            )
    for name, limit in _OPTIONAL_TEXT_LIMITS.items():
        if name in headers and not _is_text(headers[name], limit):
            raise InvalidMessage(
                "message.envelope", f"header {name}: must be printable text of at most {limit} characters"
            )
    strange = [name for name in headers if not _is_known(name)]
    if strange:
        raise InvalidMessage("message.envelope", f"header {str(strange[0])[:50]!r} is not one of ours")


def _envelope_of(body: bytes | bytearray | memoryview | str) -> dict[str, object]:
    try:
        text = body if isinstance(body, str) else bytes(body).decode("utf-8")
        call = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidMessage("message.undecodable", "the body is not JSON in UTF-8") from None
    if not isinstance(call, list) or len(call) != 3:
        raise InvalidMessage("message.envelope", "the body is not [arguments, keywords, options]")
    arguments, keywords, options = call
    if not isinstance(arguments, list) or len(arguments) != 1 or keywords != {}:
        raise InvalidMessage("message.envelope", "the handler takes the message as its only argument")
    if options != _EMBED:
        raise InvalidMessage("message.envelope", "callbacks, errbacks, chains and chords are not used here")
    envelope = arguments[0]
    if not isinstance(envelope, dict):
        raise InvalidMessage("message.envelope", "the message is not a JSON object")
    return envelope


def _same(found: object, expected: object) -> bool:
    """Equal and of one type: `False` is not 0, and a tuple is not a list."""
    return type(found) is type(expected) and found == expected


def _is_text(value: object, limit: int) -> bool:
    """Printable: what Flower and a terminal show can hold no control characters."""
    return isinstance(value, str) and len(value) <= limit and value.isprintable()


def _is_known(name: object) -> bool:
    return isinstance(name, str) and (name in _NAMES or name in _BROKER_NAMES or name.startswith("x-"))
