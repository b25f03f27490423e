"""The outermost layer on Redis: one list element is a JSON frame that kombu unpacks without looking.

Whatever kombu would trip over must be found here, before it: an exception in its place ends the worker, or counts as a
lost connection, which hands out everything in flight a second time.
"""

import base64
import binascii
import json
import re
import uuid

from contracts.errors import InvalidMessage
from shared_state.broker.wire import CONTENT_ENCODING, CONTENT_TYPE, Packed

FRAME_LIMIT_BYTES = 65_536
_TAG = re.compile(r"^[A-Za-z0-9._:-]{1,100}$")
_PRIORITIES = range(10)


def make_frame(packed: Packed) -> bytes:
    """What kombu would lay on the queue, ready made: its way of making it takes several times as long."""
    frame = {
        "body": base64.b64encode(packed.body).decode(),
        "content-encoding": CONTENT_ENCODING,
        "content-type": CONTENT_TYPE,
        "headers": packed.headers,
        "properties": {
            "correlation_id": packed.headers["id"],
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": packed.queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }
    return json.dumps(frame).encode()


def parse_frame(raw: bytes, queue: str) -> dict[str, object]:
    """The frame as kombu wants it. Raises `InvalidMessage` with a `message.*` code where it is not one for `queue`."""
    if len(raw) > FRAME_LIMIT_BYTES:
        raise InvalidMessage("message.too_large", f"the message is larger than {FRAME_LIMIT_BYTES} bytes")
    try:
        frame = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        raise InvalidMessage("message.undecodable", "the bytes are not JSON in UTF-8") from None
    if not isinstance(frame, dict):
        raise InvalidMessage("message.undecodable", "the message is not a JSON object")
    _check_headers(frame)
    properties = _object(frame, "properties")
    _check_properties(properties)
    _check_destination(_object(properties, "delivery_info"), queue)
    _check_body(frame, properties)
    return frame


def headers_in(raw: bytes) -> object:
    """The headers inside the bytes if there are any: for people who look at a rejected message."""
    try:
        frame = json.loads(raw[:FRAME_LIMIT_BYTES].decode("utf-8")) if len(raw) <= FRAME_LIMIT_BYTES else None
    except (ValueError, RecursionError):
        return None
    return frame.get("headers") if isinstance(frame, dict) else None


def _object(frame: dict[str, object], name: str) -> dict[str, object]:
    found = frame.get(name)
    if not isinstance(found, dict):
        raise InvalidMessage("message.envelope", f"{name}: must be an object")
    return found


def _check_headers(frame: dict[str, object]) -> None:
    headers = _object(frame, "headers")
    if "compression" in headers:
        raise InvalidMessage("message.envelope", "headers.compression: compressed messages are not accepted")
    for name in ("content-type", "content-encoding"):
        if not isinstance(frame.get(name), str):
            raise InvalidMessage("message.envelope", f"{name}: must be text")


def _check_properties(properties: dict[str, object]) -> None:
    tag = properties.get("delivery_tag")
    if not isinstance(tag, str) or not _TAG.match(tag):
        raise InvalidMessage("message.envelope", "properties.delivery_tag: must be a short identifier")
    priority = properties.get("priority", 0)
    if type(priority) is not int or priority not in _PRIORITIES:
        raise InvalidMessage("message.envelope", "properties.priority: must be an integer from 0 to 9")


def _check_destination(delivery: dict[str, object], queue: str) -> None:
    """Where the client would put the message back: nowhere but where it was."""
    if delivery.get("exchange") != "" or delivery.get("routing_key") != queue:
        raise InvalidMessage("message.envelope", "properties.delivery_info: must name this queue, without an exchange")


def _check_body(frame: dict[str, object], properties: dict[str, object]) -> None:
    body = frame.get("body")
    if not isinstance(body, str):
        raise InvalidMessage("message.envelope", "body: must be text")
    if properties.get("body_encoding") != "base64":
        raise InvalidMessage("message.envelope", "properties.body_encoding: must be base64")
    try:
        base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidMessage("message.undecodable", "body: is not base64") from None
