"""Frames between a worker and an attempt's process: two lengths, a JSON object, and bytes that stay bytes.

From the child: `put {media_type} + bytes`, `get {sha256}`, `progress {text, fraction}`, `outcome {outcome, code_hash}`.
To the child: `assignment {assignment, command, deadline}` once, then `stored {ref}`, `bytes + bytes` or
`refused {code, text}` in answer to each `put` and `get`.
"""

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

FRAME_LIMIT_BYTES = 64 * 1024 * 1024
_LENGTHS = struct.Struct(">II")


class FrameTooLarge(Exception):
    """A frame is longer than `FRAME_LIMIT_BYTES`."""


class FrameInvalid(Exception):
    """Bytes that are no frame of ours."""


@dataclass(frozen=True)
class Frame:
    type: str
    head: Mapping[str, Any]
    body: bytes
    size_bytes: int
    has_nul: bool
    """Whether the JSON may hold an escaped NUL, which Postgres does not store."""


def encode_frame(type: str, head: Mapping[str, Any], body: bytes = b"") -> bytes:
    """Raises `FrameTooLarge`."""
    json = to_json({"type": type, **head})
    if len(json) + len(body) > FRAME_LIMIT_BYTES:
        raise FrameTooLarge(f"{len(json) + len(body)} bytes")
    return b"".join((_LENGTHS.pack(len(json), len(body)), json, body))


def receive_frame(channel: socket.socket) -> Frame:
    """The next frame of a blocking socket. Raises `EOFError` when the other side is gone."""
    json_size, body_size = _LENGTHS.unpack(_receive(channel, _LENGTHS.size))
    return _decode(_receive(channel, json_size), _receive(channel, body_size))


class Inbox:
    """Bytes as they come in, taken out as whole frames."""

    def __init__(self) -> None:
        self._held = bytearray()

    def add(self, data: bytes) -> None:
        self._held += data

    def take(self) -> Frame | None:
        """The next whole frame, or null. Raises `FrameTooLarge` by its lengths alone, and `FrameInvalid`."""
        if len(self._held) < _LENGTHS.size:
            return None
        json_size, body_size = _LENGTHS.unpack_from(self._held)
        if json_size + body_size > FRAME_LIMIT_BYTES:
            raise FrameTooLarge(f"{json_size + body_size} bytes")
        end = _LENGTHS.size + json_size + body_size
        if len(self._held) < end:
            return None
        middle = _LENGTHS.size + json_size
        frame = _decode(bytes(self._held[_LENGTHS.size : middle]), bytes(self._held[middle:end]))
        del self._held[:end]
        return frame


def _decode(json: bytes, body: bytes) -> Frame:
    try:
        head = from_json(json, allow_inf_nan=False)
    except ValueError as error:
        raise FrameInvalid(str(error)) from error
    if not isinstance(head, dict) or not isinstance(head.get("type"), str):
        raise FrameInvalid("not an object with a type")
    return Frame(head["type"], head, body, len(json) + len(body), b"\\u0000" in json)


def _receive(channel: socket.socket, size: int) -> bytes:
    held = bytearray()
    while len(held) < size:
        data = channel.recv(min(size - len(held), 1 << 20))
        if not data:
            raise EOFError("the other side closed the channel")
        held += data
    return bytes(held)
