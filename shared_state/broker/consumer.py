"""Celery's consumer with a guard at the door: only messages made by our publisher reach Celery's own code.

Everything is checked before Celery's handler runs. An exception from inside it would come too late: it leaks the slot
that was taken, ends the worker, or makes the message come back to kill the next one. A rejected message is stored by
the quarantine first and acknowledged after, on the event loop's thread, so that nothing is lost and nobody waits.

Remote control is reduced to questions. Who reaches the broker could otherwise stop, resize or re-route every worker
without a signature; Flower shows what it shows by asking only.
"""

import json
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from celery.worker import state
from celery.worker.consumer.consumer import Consumer
from celery.worker.consumer.control import Control
from celery.worker.control import Panel

from contracts.errors import InvalidMessage
from contracts.messages import SigningKeys
from shared_state.broker.quarantine import Quarantine, describe
from shared_state.broker.wire import CheckedEnvelope, call_of, unpack

STORE_SECONDS = 5.0
"""How long a worker that ends waits for its bad messages to be stored before it gives them back."""
FLUSH_SECONDS = 0.2
"""How long events wait for others that Flower is told of in the same message."""
EVENTS_AT_ONCE = 300
"""When so many wait they go out without waiting longer."""

_QUESTIONS = frozenset(
    {
        "active",
        "active_queues",
        "enable_events",
        "ping",
        "query_task",
        "registered",
        "reserved",
        "revoked",
        "scheduled",
        "stats",
    }
)
_log = structlog.get_logger(__name__)


class SafeConsumer(Consumer):
    """Built by Celery; `quarantine` and `keys` are bound to it by `make_app`."""

    class Blueprint(Consumer.Blueprint):
        """Without a step for messages with an `eta`: on RabbitMQ it would declare 28 queues that nobody uses."""

        default_steps = [step for step in Consumer.Blueprint.default_steps if not step.endswith(":DelayedDelivery")]  # noqa: RUF012

    def __init__(self, *args: Any, quarantine: Quarantine, keys: SigningKeys, **options: Any) -> None:
        self._quarantine = quarantine
        self._keys = keys
        self._stored: deque[Any] = deque()
        self._flush_at = 0.0
        super().__init__(*args, **options)
        for step in self.steps:
            if isinstance(step, Control):
                step.box.node.handlers = {name: call for name, call in Panel.data.items() if name in _QUESTIONS}

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], Any]:
        receive = super().create_task_handler(*args, **options)

        def on_message(message: Any) -> Any:
            queue = _queue_of(message)
            try:
                envelope = self._check(message, queue)
            except InvalidMessage as error:
                return self._reject(message, error.code, error.text)
            except Exception as error:
                # An edge: a defect in our own check must cost one message, not the worker.
                _log.exception("checking a message failed")
                return self._reject(message, "message.envelope", f"checking it failed: {type(error).__name__}")
            self._quarantine.counts.accept(queue)
            _hand_on(message, envelope)
            return receive(message)

        return on_message

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._reject(message, "message.undecodable", f"the client cannot decode it: {type(exc).__name__}")

    def on_unknown_message(self, _body: Any, message: Any) -> None:
        self._reject(message, "message.envelope", "the message has no form that Celery knows")

    def on_unknown_task(self, _body: Any, message: Any, _exc: Exception) -> None:
        self._reject(message, "message.handler", "this worker does not have the handler it names")

    def on_invalid_task(self, _body: Any, message: Any, exc: Exception) -> None:
        self._reject(message, "message.envelope", f"Celery does not accept it: {type(exc).__name__}")

    def _flush_events(self) -> None:
        """What Flower is told goes out several times a second, not at every turn of the event loop.

        A plan is remembered by its time, not as a flag: a reconnect cancels what its connection has put on the timer,
        and a flag whose entry was lost would silence this worker for good.
        """
        now = time.monotonic()
        if now >= self._flush_at and self.event_dispatcher:
            self._flush_at = now + FLUSH_SECONDS
            self.event_dispatcher.buffer_limit = EVENTS_AT_ONCE
            self.timer.call_after(FLUSH_SECONDS, super()._flush_events)

    def stop_taking(self) -> None:
        """Take no more messages, while what runs goes on, is acknowledged and shows in Flower.

        From any thread, but not from a signal's handler, which may hold the lock this needs. For good: a reconnect
        does not start it again. What the broker hands over at this moment goes back to its queue.
        """
        self.call_soon(self._cancel_queues)

    @property
    def is_idle(self) -> bool:
        """Whether no handler runs or waits for a slot."""
        return not state.reserved_requests

    def shutdown(self) -> None:
        """Store or give back what was rejected, acknowledge what was stored, then close the connection."""
        self._quarantine.stop(STORE_SECONDS)
        self._acknowledge_stored()
        super().shutdown()

    def _cancel_queues(self) -> None:
        for name in list(self.app.amqp.queues.consume_from):
            self.cancel_task_queue(name)

    def _check(self, message: Any, queue: str) -> CheckedEnvelope:
        if (message.delivery_info or {}).get("exchange"):
            raise InvalidMessage("message.envelope", "the message came through an exchange")
        return unpack(
            queue=queue,
            body=message.body,
            headers=message.headers,
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            keys=self._keys,
        )

    def _reject(self, message: Any, reason: str, text: str) -> None:
        bad = describe(_queue_of(message), reason, text, _raw_of(message), message.headers)
        self._quarantine.put(bad, on_stored=partial(self._on_stored, message))

    def _on_stored(self, message: Any) -> None:
        """Runs on the quarantine's thread; the event loop's thread acknowledges."""
        self._stored.append(message)
        self.call_soon(self._acknowledge_stored)

    def _acknowledge_stored(self) -> None:
        while self._stored:
            message = self._stored.popleft()
            try:
                message.ack()
            except Exception as error:
                # Its connection may be gone: then it comes back, and is stored once more.
                _log.warning("rejected message not acknowledged", error=repr(error)[:500])


def _hand_on(message: Any, envelope: CheckedEnvelope) -> None:
    """Let Celery hand the handler what was checked, itself: it would read the bytes twice more, and the handler would
    have to check what came of that. Without a content type it takes a body for read already."""
    message.body = message._decoded_cache = call_of(envelope)
    message.content_type = None


def _queue_of(message: Any) -> str:
    """The queue it came from: on the default exchange that is the routing key."""
    return str((message.delivery_info or {}).get("routing_key") or "")


def _raw_of(message: Any) -> bytes:
    """The bytes as far as the client still has them: Redis's whole frame, RabbitMQ's body."""
    frame = getattr(message, "_raw", None)
    if isinstance(frame, dict):
        return json.dumps(frame).encode()
    body = message.body
    if isinstance(body, list):
        return json.dumps(body).encode()  # it was handed on already
    return body.encode("utf-8", "replace") if isinstance(body, str) else bytes(body or b"")
