"""The brokers the acceptance tests run on: Redis, or RabbitMQ where ORCHESTRATOR_TEST_BROKER=amqp says so.

Each knows how to be emptied behind everybody's back, how a stranger lays garbage on its queues, and what it still
waits for acknowledgements of.
"""

import base64
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import amqp
import redis as redis_client

from orchestrator.embedded import EmbeddedRedis
from shared_state.broker.app import make_queue
from shared_state.broker.wire import pack
from tests.integration.test_broker_worker import ENVELOPE, FRAME_KINDS, KEYS, KINDS, LARGE, UNDECODABLE, make_message
from tests.rabbitmq import RabbitServer

Piece = Any
QUEUES = ("plan", "execute", "review")


class TestBroker(Protocol):
    """`garbage` is by name: a piece to lay, and the reason under which it must be kept."""

    __test__ = False
    garbage: Mapping[str, tuple[Piece, str]]

    @property
    def url(self) -> str: ...

    def empty(self) -> None: ...

    def lay(self, queue: str, pieces: Sequence[Piece]) -> None: ...

    def waiting(self) -> int:
        """Messages on the roles' queues, delivered and not acknowledged ones included."""

    def cut(self) -> int:
        """Cut every connection there is; how many were."""


class RedisBroker:
    garbage = KINDS

    def __init__(self, server: EmbeddedRedis) -> None:
        self._server = server

    @property
    def url(self) -> str:
        return self._server.url

    def empty(self) -> None:
        with redis_client.Redis.from_url(self.url) as client:
            client.flushall()

    def lay(self, queue: str, pieces: Sequence[Piece]) -> None:
        with redis_client.Redis.from_url(self.url) as client:
            for piece in pieces:
                client.lpush(queue, piece)

    def waiting(self) -> int:
        with redis_client.Redis.from_url(self.url) as client:
            found: Any = client.hlen("unacked") + sum(client.llen(queue) for queue in QUEUES)
            return int(found)

    def cut(self) -> int:
        with redis_client.Redis.from_url(self.url) as client:
            return sum(client.client_kill_filter(_type=kind, skipme=True) for kind in ("pubsub", "normal"))

    def pushes(self) -> int:
        """How many times something was put (back) on a queue since the server started."""
        with redis_client.Redis.from_url(self.url) as client:
            said = client.info("commandstats")
        return sum(said.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("lpush", "rpush"))


class RawProperties(amqp.Message):
    """A message whose properties are these bytes, whatever they mean."""

    raw = b""

    def _serialize_properties(self) -> bytes:
        return self.raw


class RabbitBroker:
    def __init__(self, server: RabbitServer) -> None:
        self._server = server
        self.garbage = amqp_garbage()

    @property
    def url(self) -> str:
        return self._server.url

    def empty(self) -> None:
        """The queues go, with all that is in them, under whoever consumes them."""
        with self._server.channel() as channel:
            for queue in QUEUES:
                channel.queue_delete(queue)

    def lay(self, queue: str, pieces: Sequence[Piece]) -> None:
        with self._server.channel() as channel:
            # Whoever consumes it may not have declared it yet.
            arguments = make_queue(self.url, queue).queue_arguments
            channel.queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)
            for piece in pieces:
                channel.basic_publish(piece, routing_key=queue, mandatory=True)

    def waiting(self) -> int:
        said = json.loads(self._server.control("list_queues", "name", "messages", "--formatter", "json"))
        return sum(row["messages"] for row in said if row["name"] in QUEUES)

    def cut(self) -> int:
        found = len(self._server.control("list_connections", "pid").splitlines()) - 1
        self._server.control("close_all_connections", "by a test")
        return found


def amqp_garbage() -> dict[str, tuple[amqp.Message, str]]:
    """The same table, as what each entry is on RabbitMQ, and what only RabbitMQ can carry."""
    shared = KINDS.keys() - FRAME_KINDS - _OF_REDIS_ALONE
    made = {name: (_as_message(raw), reason) for name, (raw, reason) in KINDS.items() if name in shared}
    # It has no frame with a size of its own: the text in a header is too long.
    made["a large valid frame"] = (made["a large valid frame"][0], ENVELOPE)
    for name in ("bad compression", "unknown compression", "a decompression bomb"):
        made[name] = (made[name][0], LARGE if name == "a decompression bomb" else UNDECODABLE)
    made |= {name: (amqp.Message(KINDS[name][0]), _reason_of_bytes(name)) for name in sorted(_BYTES)}
    return made | {name: (_raw(properties), UNDECODABLE) for name, properties in _UNREADABLE.items()} | _more()


_OF_REDIS_ALONE = {"headers null", "through an exchange", "body null"}
"""Kombu's frame, in which this can be said, is Redis's alone: here its parts are properties."""
_BYTES = {"not JSON", "not UTF-8", "a number", "a list", "an empty object", "nothing", "nested deeply", "5 MB"}
"""With no content type nothing of them is looked at further."""


def _reason_of_bytes(name: str) -> str:
    return LARGE if name in ("5 MB", "nested deeply") else UNDECODABLE


def _as_message(raw: bytes) -> amqp.Message:
    frame = json.loads(raw)
    return amqp.Message(
        base64.b64decode(frame["body"]),
        application_headers=frame["headers"] or {},
        content_type=frame["content-type"],
        content_encoding=frame["content-encoding"],
        correlation_id=frame["properties"]["correlation_id"],
        delivery_mode=2,
    )


def _raw(properties: bytes) -> RawProperties:
    message = RawProperties(b"a body")
    message.raw = properties
    return message


def _short(text: bytes) -> bytes:
    return struct.pack(">B", len(text)) + text


def _table(content: bytes) -> bytes:
    return struct.pack(">H", 0x2000) + struct.pack(">I", len(content)) + content


_UNREADABLE = {
    "content type not UTF-8": struct.pack(">H", 0x8000) + _short(b"\xff\xfe"),
    "correlation id not UTF-8": struct.pack(">H", 0x0400) + _short(b"\xc3"),
    "header name not UTF-8": _table(_short(b"\xff") + b"t\x01"),
    "header value not UTF-8": _table(_short(b"a") + b"S" + struct.pack(">I", 2) + b"\xff\xff"),
    "a header's date in the year 10^11": _table(_short(b"a") + b"T" + struct.pack(">Q", 2**62)),
    "a header of an impossible scale": _table(_short(b"a") + b"D" + struct.pack(">Bi", 255, 1)),
}


def _bomb() -> bytes:
    """1 MB that kombu would unpack to 1 GB."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(10_000_000)) for _ in range(100)) + packer.flush()


def _more() -> dict[str, tuple[amqp.Message, str]]:
    packed = pack(make_message(), KEYS, "test")
    good = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "correlation_id": str(packed.headers["id"]),
        "application_headers": packed.headers,
    }
    return {
        "a decompression bomb of 1 GB": (
            amqp.Message(_bomb(), **{**good, "application_headers": {**packed.headers, "compression": "zlib"}}),
            LARGE,
        ),
        "no properties at all": (amqp.Message(packed.body), UNDECODABLE),
        "no headers": (amqp.Message(packed.body, **{**good, "application_headers": {}}), ENVELOPE),
        "a date among the headers": (
            amqp.Message(packed.body, **{**good, "application_headers": {**packed.headers, "eta": datetime.now(UTC)}}),
            ENVELOPE,
        ),
        "a nested table": (
            amqp.Message(packed.body, **{**good, "application_headers": {**packed.headers, "stamps": {"a": [1]}}}),
            ENVELOPE,
        ),
    }
