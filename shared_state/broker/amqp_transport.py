"""RabbitMQ's client with its soft spots closed: it believes what a stranger wrote into a message's properties.

Text that is not UTF-8, a date far outside the calendar: the client raises over them in the middle of reading from the
connection, Celery ends, and RabbitMQ hands the message to the next worker. A header `compression`: kombu unpacks the
body before anybody is asked, to whatever size. So the properties of every message are looked at first, and left out
where they would hurt. The message then has no content type, which the consumer's check refuses like any other that is
not ours: it becomes a dead letter with its body.
"""

from collections.abc import Callable
from struct import pack, unpack_from
from typing import Any

from amqp.method_framing import frame_handler
from amqp.serialization import decode_properties_basic
from kombu.transport import pyamqp

_CONTENT_HEADER = 2
_PROPERTIES_AT = 12
"""A content header is a class id, two unused bytes, the size of the body in eight bytes, then the properties."""

Frame = tuple[int, int, Any]


def _safe_frame_handler(connection: Any, callback: Callable[..., Any]) -> Callable[[Frame], Any]:
    on_frame = frame_handler(connection, callback)

    def on_safe_frame(frame: Frame) -> Any:
        kind, channel, content = frame
        if kind == _CONTENT_HEADER and not _is_harmless(content):
            class_id, size = unpack_from(">HxxQ", content, 0)
            content = pack(">HHQH", class_id, 0, size, 0)
        return on_frame((kind, channel, content))

    return on_safe_frame


def _is_harmless(content: Any) -> bool:
    try:
        properties, _ = decode_properties_basic(content, _PROPERTIES_AT)
    except Exception:
        # An edge: whatever the client raises here it would raise where nobody can catch it.
        return False
    return "compression" not in properties.get("application_headers", ())


class SafeChannel(pyamqp.Channel):
    def basic_ack(self, delivery_tag: int, multiple: bool = False, **options: Any) -> Any:
        """Over a connection that is gone there is nothing to say: RabbitMQ hands the message out again by itself."""
        if self.connection is None:
            return None
        return super().basic_ack(delivery_tag, multiple, **options)


class SafeConnection(pyamqp.Connection):
    Channel = SafeChannel

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, frame_handler=_safe_frame_handler, **options)


class SafeAmqpTransport(pyamqp.Transport):
    Connection = SafeConnection
