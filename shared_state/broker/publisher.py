"""Publishing: ready-made messages in batches, on a connection of its own, and never longer than a few seconds.

Nothing here is durable and nothing needs to be: a message that was lost or sent twice on the way is published again
by the relay, or dropped by the claim.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from amqp.exceptions import ChannelError
from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import KombuError
from kombu.messaging import Producer

from contracts.errors import Unavailable
from contracts.messages import Message, SigningKeys
from shared_state.broker.app import is_redis, make_queue
from shared_state.broker.frames import make_frame
from shared_state.broker.spans import publishing
from shared_state.broker.wire import CONTENT_ENCODING, CONTENT_TYPE, Packed, pack
from shared_state.telemetry import Tracing

ANSWER_SECONDS = 2.0
BATCH_SIZE = 500
_NOT_FOUND = 404
_REMEDY = "Check that it runs and that ORCHESTRATOR_BROKER_URL is right; what is ready is published again later."


class Publisher:
    """Publishes from any thread, one batch at a time; opens its connection at the first use and after a failure."""

    def __init__(
        self, app: Celery, keys: SigningKeys, *, origin: str = "orchestrator", tracing: Tracing | None = None
    ) -> None:
        self._app = app
        self._url: str = app.conf.broker_url
        self._keys = keys
        self._origin = origin
        self._tracing = tracing
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._client: Any = None
        """Redis's, of the connection's pool."""
        self._declared: set[str] = set()

    def publish(self, messages: Sequence[Message]) -> None:
        """Publish all of them, each to its queue.

        Raises `Unavailable` where the broker did not answer within about `ANSWER_SECONDS`; then any of the messages
        may or may not have arrived. Raises `ValueError` for a message larger than its limit, before sending any.
        """
        if self._tracing is None:
            self._publish(messages)
            return
        with publishing(self._tracing, messages) as traced:
            self._publish(traced)

    def _publish(self, messages: Sequence[Message]) -> None:
        packed = [pack(message, self._keys, self._origin) for message in messages]
        if packed:
            self._with_channel(lambda channel: self._send(channel, packed))

    def queue_depth(self, queues: Sequence[str]) -> dict[str, int]:
        """How many messages wait on each queue; a queue that does not exist has none. Raises `Unavailable`."""
        depths: dict[str, int] = {}
        self._with_channel(lambda channel: depths.update((name, self._depth(channel, name)) for name in queues))
        return depths

    def close(self) -> None:
        """Release the connection. The publisher opens another one when it is used again."""
        with self._lock:
            self._reset()

    def _send(self, channel: Any, packed: Sequence[Packed]) -> None:
        if is_redis(self._url):
            self._push(channel, packed)
            return
        producer = Producer(channel, auto_declare=False)
        with producer.batch(BATCH_SIZE):
            for item in packed:
                self._declare(channel, item.queue)
                producer.publish(
                    item.body,
                    routing_key=item.queue,
                    content_type=CONTENT_TYPE,
                    content_encoding=CONTENT_ENCODING,
                    headers=item.headers,
                    correlation_id=item.headers["id"],
                    retry=False,
                    timeout=ANSWER_SECONDS,
                    # A queue that was deleted under us: say so, and declare it again the next time.
                    mandatory=True,
                )

    def _push(self, channel: Any, packed: Sequence[Packed]) -> None:
        """On Redis a queue is a list: push what belongs together in one round trip."""
        frames: dict[str, list[bytes]] = defaultdict(list)
        for item in packed:
            frames[item.queue].append(make_frame(item))
        pushes = [
            (queue, pushed[start : start + BATCH_SIZE])
            for queue, pushed in frames.items()
            for start in range(0, len(pushed), BATCH_SIZE)
        ]
        if self._client is None:  # the channel would make one each time, which takes longer than to push
            self._client = channel._create_client()
        if len(pushes) == 1:
            self._client.lpush(pushes[0][0], *pushes[0][1])
            return
        pipe = self._client.pipeline(transaction=False)
        for queue, some in pushes:
            pipe.lpush(queue, *some)
        pipe.execute()

    def _declare(self, channel: Any, queue: str) -> None:
        """RabbitMQ drops what is routed to a queue that does not exist."""
        if queue not in self._declared:
            make_queue(self._url, queue).bind(channel).declare()
        self._declared.add(queue)

    def _depth(self, channel: Any, queue: str) -> int:
        try:
            return int(make_queue(self._url, queue).bind(channel).queue_declare(passive=True).message_count)
        except ChannelError as error:
            if error.reply_code not in (_NOT_FOUND, str(_NOT_FOUND)):
                raise
            return 0

    def _with_channel(self, work: Callable[[Any], None]) -> None:
        if not self._lock.acquire(timeout=ANSWER_SECONDS):
            raise Unavailable(f"The broker is slow: another publish has not ended yet. {_REMEDY}")
        try:
            connection = self._open()
            errors = (*connection.connection_errors, *connection.channel_errors, KombuError, OSError)
            try:
                work(connection.default_channel)
            except errors as error:
                self._reset()
                raise Unavailable(f"The broker does not answer ({type(error).__name__}). {_REMEDY}") from error
        finally:
            self._lock.release()

    def _open(self) -> Connection:
        """A lazy connection: the first use of its channel connects, once, without retrying."""
        if self._connection is None:
            timeouts = ("socket_timeout", "socket_connect_timeout")
            if not is_redis(self._url):
                timeouts = ("read_timeout", "write_timeout")
            self._connection = self._app.connection_for_write(
                connect_timeout=ANSWER_SECONDS,
                # Nobody would send RabbitMQ's heartbeats while there is nothing to publish: it would hang up.
                heartbeat=0,
                transport_options={**dict.fromkeys(timeouts, ANSWER_SECONDS), "max_retries": 0},
            )
        return self._connection

    def _reset(self) -> None:
        connection, self._connection = self._connection, None
        self._client = None
        self._declared.clear()
        if connection is not None:
            # It may be broken in any way; all that counts is that it is gone.
            with suppress(Exception):
                connection.collect(socket_timeout=ANSWER_SECONDS)
