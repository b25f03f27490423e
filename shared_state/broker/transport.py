"""kombu's Redis transport with its soft spots closed: it trusts what lies on a list, and the type of its keys.

Every element is parsed as bytes from a stranger. What is no message goes to the quarantine; a key of a wrong type is
moved aside; an entry of the `unacked` hash that is not ours goes to the quarantine when it would be restored; what a
stranger says on the control channel is dropped. None of them raises into Celery, where it would end the worker, or
restart its connection and so hand out everything in flight a second time.

What is never seen here, and so is stored nowhere:
- what was taken from Redis by a worker that is killed before it could store it (kombu's window, for good ones too);
- what is pushed onto a key nobody reads: an unknown queue, or a priority other than kombu's steps;
- what is published on the control channel: counted under `control.undecodable` and `control.envelope`, then dropped.

`append`, `_brpop_read`, `_get` and `restore_by_tag` repeat lines of kombu's methods, which offer no hook in between:
they take and parse, or note and tell, in one go. They were written against kombu 5.7, to which the project is pinned.
"""

import json
import re
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from queue import Empty
from typing import Any, TypeVar

import structlog
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from redis.exceptions import ResponseError

from contracts.errors import InvalidMessage
from shared_state.broker.frames import headers_in, parse_frame
from shared_state.broker.quarantine import RAW_LIMIT_BYTES, Quarantine, describe

T = TypeVar("T")
TELL_SECONDS = 0.2
"""How long Redis may go without being told what was taken and what was acknowledged."""
BACKLOG_SECONDS = 0.005
"""A message that came within so much of being asked for had waited, and others may have."""
BACKLOG_MESSAGES = 3
"""When so many in a row had waited there is a backlog: before, asking for more would mostly find none."""
_SHARE = 4
"""Of a backlog a worker takes at most this part at once: the rest is for the others."""
_TAKE_SHARE = """
local count = math.min(tonumber(ARGV[1]), math.floor(redis.call('LLEN', KEYS[1]) / tonumber(ARGV[2])))
if count < 1 then return {} end
return redis.call('RPOP', KEYS[1], count)
"""
_QUEUE_NAME = re.compile(r"^[a-z][a-z0-9_.-]{0,99}$")
_log = structlog.get_logger(__name__)


class _Frame(dict[str, object]):
    """A frame whose bytes are known, so that nobody has to make them again."""

    def __init__(self, frame: dict[str, object], raw: bytes, queue: str) -> None:
        super().__init__(frame)
        self.held = b'[%s, "", "%s"]' % (raw, queue.encode())
        """As the entry of `unacked` that restores it."""


class SafeQoS(kombu_redis.QoS):
    """Acknowledgements: takes nothing more while the quarantine is full, and survives entries that are not ours.

    Redis is told together, a moment later, what was taken and what is over: a round trip for each message would cost as
    much as everything else that consuming it takes, and what is soon over is never noted at all. A worker killed before
    is to Redis like one killed on the way: what it had taken, the relay sends again, as it does long before Redis
    hands out a note. A message that was rejected is noted before anything else: nobody would send it again.
    """

    channel: "SafeChannel"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._noted: dict[str, str | bytes] = {}
        self._gathering = False
        self._acknowledged: deque[str] = deque()
        self._untold_since: float | None = None

    def can_consume(self) -> bool:
        return not self.channel.quarantine.is_full and bool(super().can_consume())

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message as unacknowledged, so that it can be restored."""
        self._noted[delivery_tag] = _held(message)
        virtual.QoS.append(self, message, delivery_tag)
        self._delay()
        if not self._gathering:
            self._tell()

    def take(self, key: bytes, queue: str, first: bytes, *, backlog: bool = True) -> None:
        """Deliver what was popped from `key` of `queue`, and of a `backlog` there as much as there is room for."""
        self._gathering = True
        try:
            self.channel.deliver(key, queue, first)
            # What is not consumed any more has gone back to its queue: not to be taken again.
            more = deque(self._tell(more_of=key) if backlog and queue in self.channel.active_queues else ())
            try:
                while more:
                    self.channel.deliver(key, queue, more.popleft())
            finally:
                if more:
                    self.channel.plain_client.rpush(key, *reversed(more))
                if self.channel.quarantine.waiting:
                    self._tell()
        finally:
            self._gathering = False

    def ack(self, delivery_tag: str) -> None:
        """Over a connection that is gone there is nothing to say: Redis lost the message, or gave it back already."""
        if not self.channel.is_cut_off:
            if self._noted.pop(delivery_tag, None) is None:
                self._acknowledged.append(delivery_tag)
                self._delay()
            virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """What goes back to its queue must have been noted: else its note would come after."""
        if delivery_tag in self._noted:
            self._tell()
        super().reject(delivery_tag, requeue=requeue)

    def tell(self, *, after_seconds: float = 0.0) -> None:
        """Tell Redis what it does not know yet, where there has been something for so long."""
        since = self._untold_since
        if since is not None and time.monotonic() - since >= after_seconds and not self.channel.is_cut_off:
            self._tell()

    def _delay(self) -> None:
        if self._untold_since is None:
            self._untold_since = time.monotonic()

    def _tell(self, more_of: bytes | None = None) -> list[bytes]:
        """Note, then acknowledge: a message may be over before it is noted. Returns what was taken of `more_of`."""
        self._untold_since = None
        if not (self._noted or self._acknowledged or more_of):
            return []
        noted, self._noted = self._noted, {}
        over = [self._acknowledged.popleft() for _ in range(len(self._acknowledged))]
        room = self._room() if more_of else 0
        taken: list[bytes] = []

        def tell() -> None:
            nonlocal room
            pipe = self.channel.plain_client.pipeline(transaction=False)
            if noted:
                now = time.time()
                pipe.hset(self.unacked_key, mapping=noted).zadd(self.unacked_index_key, dict.fromkeys(noted, now))
            if over:
                pipe.zrem(self.unacked_index_key, *over).hdel(self.unacked_key, *over)
            if room:
                pipe.eval(_TAKE_SHARE, 1, more_of, room, _SHARE)
            replies = pipe.execute(raise_on_error=False)
            if room:
                more = replies.pop()
                taken.extend(more if isinstance(more, list) else ())
                room = 0
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply

        try:
            self.channel.with_right_types(self._types(), tell)
        except BaseException:
            self._acknowledged.extendleft(reversed(over))
            self._delay()
            raise
        return taken

    def _room(self) -> int:
        """How many more messages this worker may hold; none where it may hold any number, or the quarantine is full."""
        return (self.can_consume_max_estimate() or 0) if self.can_consume() else 0

    def restore_visible(self, start: int = 0, num: int | None = 10, interval: int = 10) -> None:
        restore = super().restore_visible
        self.channel.with_right_types(self._types(), lambda: restore(start=start, num=num, interval=interval))

    def restore_by_tag(self, tag: bytes | str, client: Any = None, leftmost: bool = False) -> None:
        """Put an unacknowledged message back on its queue. What is not a message of ours is quarantined instead."""
        bad: list[tuple[bytes, str]] = []

        def restore(pipe: Any) -> None:
            held = pipe.hget(self.unacked_key, tag)
            bad.clear()
            pipe.multi()
            self._remove_from_indices(tag, pipe)
            if held is None:
                return
            try:
                frame, queue = _parse_held(held)
            except InvalidMessage as error:
                bad.append((held, error.text))
            else:
                self.channel._do_restore_message(frame, "", queue, pipe, leftmost)

        with self.channel.conn_or_acquire(client) as connected:
            connected.transaction(restore, self.unacked_key)
        for held, text in bad:
            self.channel.quarantine.put(
                describe(self.unacked_key, "message.envelope", f"an entry of {self.unacked_key!r}: {text}", held),
                give_back=partial(
                    _hold_again, self.channel.plain_client, self.unacked_key, self.unacked_index_key, tag, held
                ),
            )

    def _types(self) -> Mapping[str, str]:
        return {self.unacked_key: "hash", self.unacked_index_key: "zset"}


class SafeChannel(kombu_redis.Channel):
    """A channel whose `quarantine` and `guarded_queues` come, as kombu does it, from the transport options."""

    QoS = SafeQoS
    quarantine: Quarantine
    guarded_queues: tuple[str, ...] = ()
    from_transport_options = (*kombu_redis.Channel.from_transport_options, "quarantine", "guarded_queues")

    _plain_client: Any = None
    _waited = 0
    """How many messages in a row had waited for us to ask."""

    @property
    def plain_client(self) -> Any:
        """One client for all commands that do not block. kombu makes a new one for every acknowledgement, which is a
        fifth of what consuming a message costs; a client only borrows connections of the pool and can be shared."""
        if self._plain_client is None:
            self._plain_client = self._create_client()
        return self._plain_client

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        yield self.plain_client if client is None else client

    @property
    def is_cut_off(self) -> bool:
        """Whether the connection is gone for good; the worker has another one by now, with other channels."""
        return self.connection is None or self.connection.client is None

    def _create_client(self, asynchronous: bool = False) -> Any:
        """A channel outlives its connection where its close met a dead broker or a handler still has to acknowledge.
        kombu would look for the connection's address then, and fail in a way that ends the worker."""
        if self.is_cut_off:
            raise ConnectionError("the connection of this channel is closed")
        return super()._create_client(asynchronous)

    def with_right_types(self, types: Mapping[str, str], work: Callable[[], T]) -> T:
        """Do `work`; where a key has a wrong type, move it aside and do `work` again."""
        try:
            return work()
        except ResponseError as error:
            if "WRONGTYPE" not in str(error) or not self._move_aside(types):
                raise
            return work()

    def close(self) -> None:
        """What was acknowledged would be handed out again, and what was taken would not go back to its queue."""
        if self._qos is not None:
            # kombu closes the rest whatever happens here.
            with suppress(Exception):
                self._qos.tell()
        super().close()

    def _disconnect_pools(self) -> None:
        self._plain_client = None
        super()._disconnect_pools()

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        bind = super()._queue_bind
        types = {prefix % exchange: "set" for prefix in (self.keyprefix_queue, self.keyprefix_binding_permanent)}
        self.with_right_types(types, lambda: bind(exchange, routing_key, pattern, queue))

    def _brpop_read(self, **options: Any) -> bool:
        client = self.client
        try:
            try:
                popped = client.parse_response(client.connection, "BRPOP", **options)
            except self.connection_errors:
                client.connection.disconnect()
                raise
            except ResponseError as error:
                if "WRONGTYPE" not in str(error) or not self._move_aside(self._queue_types()):
                    raise
                popped = None
            if not popped:
                raise Empty
            key, raw = popped
            queue = key.decode("utf-8").rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            self._waited = self._waited + 1 if time.monotonic() - self._brpop_sent_at < BACKLOG_SECONDS else 0
            self.qos.take(key, queue, raw, backlog=self._waited >= BACKLOG_MESSAGES)
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _get(self, queue: str, *_: Any) -> Any:
        for priority in self.priority_steps:
            key = self._q_for_pri(queue, priority)
            take = partial(self.plain_client.rpop, key)
            while not self.quarantine.is_full:
                raw = self.with_right_types({key: "list"}, take)
                if raw is None:
                    break
                frame = self._accept(raw, key, queue)
                if frame is not None:
                    return frame
        raise Empty

    def deliver(self, key: bytes, queue: str, raw: bytes) -> None:
        """Hand a message to its consumer, or to the quarantine."""
        frame = self._accept(raw, key, queue)
        if frame is not None:
            self.connection._deliver(frame, queue)

    def _accept(self, raw: bytes, key: bytes | str, queue: str) -> Any:
        """The frame in `raw`, or None after handing the bytes to the quarantine."""
        if queue not in self.guarded_queues:
            return json.loads(raw)
        try:
            return _Frame(parse_frame(raw, queue), raw, queue)
        except InvalidMessage as error:
            bad = describe(queue, error.code, error.text, raw, headers_in(raw))
            self.quarantine.put(bad, give_back=partial(self.plain_client.lpush, key, raw))
            return None

    def _receive_one(self, c: Any) -> Any:
        try:
            return super()._receive_one(c)
        except RecursionError:
            self._drop_control("control.undecodable")
            raise Empty from None
        except Empty:
            self._drop_control("control.undecodable")
            raise

    def _deliver_fanout_message(self, message: Any, exchange: str) -> Any:
        """What anybody may say to all workers at once (Flower does): nothing in it may hurt."""
        headers = message.get("headers") if isinstance(message, dict) else None
        if not isinstance(headers, dict) or "compression" in headers:
            return self._drop_control("control.envelope")
        try:
            return super()._deliver_fanout_message(message, exchange)
        except (AttributeError, KeyError, TypeError, ValueError):
            return self._drop_control("control.envelope")

    def _drop_control(self, name: str) -> None:
        self.quarantine.counts.drop(name)
        _log.warning("control message dropped", reason=name)

    def _queue_types(self) -> dict[str, str]:
        return {self._q_for_pri(queue, step): "list" for queue in self.active_queues for step in self.priority_steps}

    def _move_aside(self, types: Mapping[str, str]) -> bool:
        """Rename the keys that do not have their type. False where all have, so that trying again would not help."""
        moved = False
        for key, expected in types.items():
            aside = f"{key}.moved-aside.{uuid.uuid4().hex}"
            found = _rename_unless(self.plain_client, key, expected, aside)
            if found is not None:
                moved = True
                raw = self.plain_client.getrange(aside, 0, RAW_LIMIT_BYTES - 1) if found == "string" else b""
                text = f"the key {key!r} was a {found}, not a {expected}; it was renamed to {aside!r}"
                self.quarantine.put(describe(key, "message.undecodable", text, raw))
        return moved


class SafeTransport(kombu_redis.Transport):
    Channel = SafeChannel

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        super().register_with_event_loop(connection, loop)
        loop.on_tick.add(self._tell)

    def _tell(self) -> None:
        """At every turn of the event loop, also while no queue is consumed any more."""
        for channel in self.channels:
            channel.qos.tell(after_seconds=TELL_SECONDS)


def _rename_unless(client: Any, key: str, expected: str, aside: str) -> str | None:
    """Rename `key` where it exists and is not of the expected type; its type then, else None."""
    found: list[str] = []

    def rename(pipe: Any) -> None:
        kind = pipe.type(key).decode()
        found[:] = [] if kind in (expected, "none") else [kind]
        pipe.multi()
        if found:
            pipe.rename(key, aside)

    client.transaction(rename, key)
    return found[0] if found else None


def _held(message: Any) -> str | bytes:
    frame, where = message._raw, message.delivery_info
    return frame.held if isinstance(frame, _Frame) else json.dumps([frame, where["exchange"], where["routing_key"]])


def _parse_held(held: bytes) -> tuple[dict[str, object], str]:
    """The frame and the queue of an entry of `unacked`: `[frame, "", queue]`."""
    try:
        entry = json.loads(held)
    except (ValueError, RecursionError):
        raise InvalidMessage("message.undecodable", "not JSON") from None
    if not isinstance(entry, list) or len(entry) != 3:
        raise InvalidMessage("message.envelope", "not [message, exchange, queue]")
    frame, exchange, queue = entry
    if exchange != "" or not isinstance(queue, str) or not _QUEUE_NAME.match(queue):
        raise InvalidMessage("message.envelope", "not for a queue of the default exchange")
    return parse_frame(json.dumps(frame).encode(), queue), queue


def _hold_again(client: Any, key: str, index_key: str, tag: bytes | str, held: bytes) -> None:
    client.pipeline().hset(key, tag, held).zadd(index_key, {tag: 0}).execute()
