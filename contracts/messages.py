"""The typed message: ids and epochs of ready steps, never their bodies; versioned, signed, at most 2 KB.

A message is a hint. Whoever receives one must still claim the steps in Postgres, so a lost, doubled, reordered or
replayed message is harmless. The signature keeps strangers who reach the broker from making us work; it is an
HMAC-SHA256 over the canonical JSON of all other fields, by a named key, so that keys can be rotated.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contracts.errors import InvalidMessage
from contracts.topology import MessageKind

VERSION = 1
SIZE_LIMIT_BYTES = 2048
STEPS_LIMIT = 20


class StepRef(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: UUID
    epoch: Annotated[int, Field(ge=0, lt=2**63)]


class Message(BaseModel):
    """`steps` are all of one queue and one kind. `traceparent` is W3C trace context, or null."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    id: UUID
    kind: MessageKind
    queue: str = Field(min_length=1, max_length=100)
    steps: tuple[StepRef, ...] = Field(min_length=1, max_length=STEPS_LIMIT)
    traceparent: str | None = Field(default=None, max_length=64)


class SigningKeys:
    """Named secrets: the first signs, all verify. Rotate by putting the new one first and dropping the old later."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        if not keys:
            raise ValueError("at least one signing key is needed")
        self._keys = dict(keys)
        self._signer = next(iter(self._keys))

    def __repr__(self) -> str:
        return f"SigningKeys({', '.join(self._keys)})"

    def sign(self, body: Mapping[str, object]) -> dict[str, object]:
        signature = hmac.new(self._keys[self._signer], _canonical(body), hashlib.sha256).hexdigest()
        return {**body, "key": self._signer, "signature": signature}

    def verify(self, body: Mapping[str, object], key: object, signature: object) -> bool:
        secret = self._keys.get(key) if isinstance(key, str) else None
        if secret is None or not isinstance(signature, str) or not signature.isascii():
            return False
        return hmac.compare_digest(hmac.new(secret, _canonical(body), hashlib.sha256).hexdigest(), signature)


def encode(message: Message, keys: SigningKeys) -> dict[str, object]:
    """The signed JSON object that travels. Raises `ValueError` above `SIZE_LIMIT_BYTES`."""
    wire = keys.sign(message.model_dump(mode="json"))
    if len(json.dumps(wire)) > SIZE_LIMIT_BYTES:
        raise ValueError(f"a message of {len(message.steps)} steps is larger than {SIZE_LIMIT_BYTES} bytes")
    return wire


def decode(wire: object, keys: SigningKeys) -> Message:
    """Check form, size, signature, version and kind, in this order of trust. Raises `InvalidMessage`."""
    if not isinstance(wire, dict):
        raise InvalidMessage("message.envelope", "the message is not a JSON object")
    body = {str(name): value for name, value in wire.items() if name not in ("key", "signature")}
    try:
        if len(json.dumps(wire)) > SIZE_LIMIT_BYTES:
            raise InvalidMessage("message.too_large", f"the message is larger than {SIZE_LIMIT_BYTES} bytes")
        genuine = keys.verify(body, wire.get("key"), wire.get("signature"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMessage("message.envelope", "the message is not plain JSON") from error
    if not genuine:
        raise InvalidMessage("message.signature", "the signature is missing, wrong, or by an unknown key")
    if type(body.get("version")) is not int or body["version"] != VERSION:
        raise InvalidMessage("message.version", f"this worker understands version {VERSION} only")
    if body.get("kind") not in list(MessageKind):
        raise InvalidMessage("message.kind", "the message has an unknown kind")
    try:
        return Message.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidMessage("message.envelope", f"{where}: {first['msg']}") from error


def chunk_refs(refs: Sequence[StepRef], size: int) -> list[tuple[StepRef, ...]]:
    """Split references into the runs that one message each will carry."""
    size = max(1, min(size, STEPS_LIMIT))
    return [tuple(refs[start : start + size]) for start in range(0, len(refs), size)]


def _canonical(body: Mapping[str, object]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
