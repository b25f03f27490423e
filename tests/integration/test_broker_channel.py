"""Taking several messages of a backlog at once: how many, what is noted of them, and what goes back."""

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
import redis

from contracts.messages import Message, SigningKeys, StepRef
from contracts.topology import MessageKind
from shared_state.broker.app import make_app
from shared_state.broker.frames import make_frame
from shared_state.broker.quarantine import Quarantine, describe
from shared_state.broker.transport import BACKLOG_MESSAGES, SafeChannel
from shared_state.broker.wire import pack
from shared_state.settings import Settings

QUEUE = "execute"
KEY = QUEUE.encode()
ROOM = 10
LATE_SECONDS = 10.0


@pytest.fixture
def client(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


class Consumer:
    """A channel that consumes `execute` and may hold `ROOM` messages; `on_message` sees what it is given."""

    def __init__(self, url: str, client: "redis.Redis") -> None:
        self.client = client
        self.given: list[Any] = []
        self.on_message: Callable[[Any], None] = lambda message: None
        self._keys = SigningKeys({"test": b"a secret"})
        self.quarantine = Quarantine(lambda bad: None)
        app = make_app(Settings(broker_url=url), queues=[QUEUE], quarantine=self.quarantine, keys=self._keys)
        self._connection = app.connection_for_read()
        self.channel: SafeChannel = self._connection.channel()
        self.channel.basic_qos(0, ROOM, False)
        self.channel.basic_consume(QUEUE, no_ack=False, callback=self._receive, consumer_tag="tag")

    def push(self, count: int) -> None:
        for _ in range(count):
            steps = (StepRef(id=uuid4(), epoch=1),)
            message = Message(id=uuid4(), kind=MessageKind.EXECUTE, queue=QUEUE, steps=steps)
            self.client.lpush(QUEUE, make_frame(pack(message, self._keys, "test")))

    def take(self, *, backlog: bool = True) -> None:
        """As if BRPOP had just given the first."""
        first: Any = self.client.rpop(QUEUE)
        self.channel.qos.take(KEY, QUEUE, first, backlog=backlog)

    def poll(self) -> int:
        """As the event loop does; how many were given so far."""
        client = self.channel.client
        client.connection = client.connection or client.connection_pool.get_connection()
        self.channel._brpop_start()
        self.channel._brpop_read()
        return len(self.given)

    @property
    def waiting(self) -> list[Any]:
        found: Any = self.client.lrange(QUEUE, 0, -1)
        return list(found)

    @property
    def noted(self) -> set[Any]:
        """The delivery tags under which Redis keeps what is not acknowledged, once it has been told."""
        self.channel.qos.tell()
        return self.held

    @property
    def held(self) -> set[Any]:
        """What Redis keeps as it is now."""
        entries: Any = self.client.hkeys("unacked")
        index: Any = self.client.zrange("unacked_index", 0, -1)
        assert sorted(entries) == sorted(index)
        return set(entries)

    def close(self) -> None:
        self.quarantine.stop(1)
        self._connection.close()

    def _receive(self, message: Any) -> None:
        self.given.append(message)
        self.on_message(message)


@pytest.fixture
def consumer(redis_url: str, client: "redis.Redis") -> Iterator[Consumer]:
    consumer = Consumer(redis_url, client)
    yield consumer
    consumer.close()


def tags(consumer: Consumer) -> set[bytes]:
    return {message.delivery_tag.encode() for message in consumer.given}


def bodies(frames: list[Any]) -> list[str]:
    """In any order: what goes back is marked as redelivered, and goes to the front."""
    return sorted(json.loads(frame)["body"] for frame in frames)


def test_of_a_long_backlog_as_much_is_taken_as_there_is_room_for(consumer: Consumer) -> None:
    consumer.push(100)
    consumer.take()
    assert len(consumer.given) == ROOM
    assert len(consumer.waiting) == 100 - ROOM
    assert consumer.noted == tags(consumer)


def test_of_a_short_backlog_most_is_left_to_others(consumer: Consumer) -> None:
    consumer.push(9)
    consumer.take()
    assert len(consumer.given) == 1 + 2
    assert consumer.noted == tags(consumer)


def test_the_last_ones_are_taken_one_by_one(consumer: Consumer) -> None:
    consumer.push(4)
    consumer.take()
    assert len(consumer.given) == 1


def test_a_backlog_is_where_some_in_a_row_had_waited(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared_state.broker.transport.BACKLOG_SECONDS", LATE_SECONDS)
    consumer.push(100)
    assert [consumer.poll() for _ in range(BACKLOG_MESSAGES)] == [*range(1, BACKLOG_MESSAGES), ROOM]


def test_one_that_we_waited_for_ends_a_backlog(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    consumer.push(100)
    for seconds in (LATE_SECONDS, LATE_SECONDS, 0, LATE_SECONDS):
        monkeypatch.setattr("shared_state.broker.transport.BACKLOG_SECONDS", seconds)
        taken = consumer.poll()
    assert taken == 4


def test_messages_come_in_their_order(consumer: Consumer) -> None:
    consumer.push(40)
    before = consumer.waiting[::-1]
    consumer.take()
    assert [message._raw.held for message in consumer.given] == [
        b'[%s, "", "execute"]' % raw for raw in before[: len(consumer.given)]
    ]


def test_what_is_over_at_once_is_not_left_noted(consumer: Consumer) -> None:
    consumer.push(100)
    consumer.on_message = lambda message: message.ack()
    consumer.take()
    assert len(consumer.given) > ROOM
    assert consumer.noted == set()


def test_who_waited_for_a_message_takes_no_more_of_what_came_meanwhile(consumer: Consumer) -> None:
    consumer.push(100)
    consumer.take(backlog=False)
    assert len(consumer.given) == 1


def test_what_is_over_soon_is_never_noted(consumer: Consumer) -> None:
    """Nor said to be over: Redis hears nothing of it."""
    consumer.client.config_resetstat()
    consumer.push(3)
    for _ in range(3):
        consumer.take(backlog=False)
    for message in consumer.given:
        message.ack()
    consumer.channel.qos.tell()
    assert consumer.held == set()
    said = consumer.client.info("commandstats")
    assert not {f"cmdstat_{name}" for name in ("hset", "zadd", "hdel", "zrem")} & said.keys()


def test_what_takes_longer_is_noted_at_its_time(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("shared_state.broker.transport.time.monotonic", lambda: now[0])
    consumer.push(1)
    consumer.take(backlog=False)
    now[0] += 0.04
    consumer.channel.qos.tell(after_seconds=0.05)
    assert consumer.held == set()
    now[0] += 0.02
    consumer.channel.qos.tell(after_seconds=0.05)
    assert consumer.held == tags(consumer)


def test_what_was_taken_and_not_noted_goes_back_when_the_connection_is_closed(consumer: Consumer) -> None:
    consumer.push(3)
    before = consumer.waiting
    for _ in range(3):
        consumer.take(backlog=False)
    consumer.close()
    assert bodies(consumer.waiting) == bodies(before)


def test_what_nobody_consumes_any_more_goes_back(consumer: Consumer) -> None:
    consumer.push(20)
    before = consumer.waiting
    consumer.channel.basic_cancel("tag")
    consumer.take()
    assert consumer.given == []
    assert bodies(consumer.waiting) == bodies(before)
    assert consumer.noted == set()


def test_what_was_noted_is_restored_as_it_was(consumer: Consumer) -> None:
    consumer.push(20)
    before = consumer.waiting
    consumer.take()
    assert consumer.noted
    for tag in consumer.noted:
        consumer.channel.qos.restore_by_tag(tag)
    assert bodies(consumer.waiting) == bodies(before)


def test_what_an_error_keeps_from_being_delivered_goes_back_in_its_order(consumer: Consumer) -> None:
    consumer.push(40)
    before = consumer.waiting

    def fail(_message: Any) -> None:
        if len(consumer.given) == 3:
            raise ConnectionError("the third")

    consumer.on_message = fail
    with pytest.raises(ConnectionError):
        consumer.take()
    assert consumer.waiting == before[:-3]


def test_keys_of_a_wrong_type_cost_nothing_that_was_taken(consumer: Consumer) -> None:
    consumer.push(100)
    consumer.client.set("unacked", "a stranger's")
    consumer.take()
    assert len(consumer.given) + len(consumer.waiting) == 100
    assert consumer.noted == tags(consumer)


def test_a_message_that_was_rejected_is_noted_at_once(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would send it again, where its worker is killed before it is stored."""
    stored = threading.Event()
    monkeypatch.setattr(consumer.quarantine, "_sink", lambda _: stored.wait(10))
    bad = describe(QUEUE, "message.envelope", "not one of ours", b"raw")
    consumer.on_message = lambda _: consumer.quarantine.put(bad)
    consumer.push(1)
    consumer.take(backlog=False)
    assert consumer.held == tags(consumer)
    stored.set()
