"""Publishing to a real Redis: in batches, from several threads, and never waiting long for a broker that is ill."""

import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from contracts.errors import Unavailable
from contracts.messages import Message, SigningKeys, StepRef
from contracts.topology import MessageKind
from orchestrator.embedded import EmbeddedRedis
from shared_state.broker.app import make_app
from shared_state.broker.frames import FRAME_LIMIT_BYTES, parse_frame
from shared_state.broker.publisher import ANSWER_SECONDS, Publisher
from shared_state.settings import Settings

KEYS = SigningKeys({"k": b"secret"})


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def client(broker: EmbeddedRedis) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(broker.url) as connected:
        yield connected


@pytest.fixture
def publisher(broker: EmbeddedRedis) -> Iterator[Publisher]:
    made = Publisher(make_app(Settings(broker_url=broker.url)), KEYS)
    yield made
    made.close()


def make(queue: str = "execute") -> Message:
    steps = (StepRef(id=uuid.uuid4(), epoch=1),)
    return Message(id=uuid.uuid4(), kind=MessageKind.EXECUTE, queue=queue, steps=steps)


def test_messages_go_to_their_queues_in_order(publisher: Publisher, client: "redis.Redis") -> None:
    messages = [make("execute"), make("gpu"), make("execute")]
    publisher.publish(messages)
    assert publisher.queue_depth(["execute", "gpu", "plan"]) == {"execute": 2, "gpu": 1, "plan": 0}
    raws = [client.rpop("execute"), client.rpop("execute")]
    assert [json.loads(raw)["headers"]["id"] for raw in raws] == [str(messages[0].id), str(messages[2].id)]
    assert all(parse_frame(raw, "execute") for raw in raws)
    assert all(len(raw) < FRAME_LIMIT_BYTES / 10 for raw in raws)


def test_nothing_is_nothing(publisher: Publisher) -> None:
    publisher.publish([])
    assert publisher.queue_depth([]) == {}


def test_a_thousand_messages_are_a_few_round_trips(publisher: Publisher, client: "redis.Redis") -> None:
    publisher.publish([make()])
    before = client.info("stats")["total_commands_processed"]
    publisher.publish([make() for _ in range(1000)])
    assert client.info("stats")["total_commands_processed"] - before < 10
    assert publisher.queue_depth(["execute"]) == {"execute": 1001}


def test_one_message_too_large_and_none_is_sent(publisher: Publisher, broker: EmbeddedRedis) -> None:
    large = SigningKeys({"k" * 3000: b"secret"})
    with pytest.raises(ValueError, match="larger"):
        Publisher(make_app(Settings(broker_url=broker.url)), large).publish([make()])
    assert publisher.queue_depth(["execute"]) == {"execute": 0}


def test_several_threads_share_it(publisher: Publisher) -> None:
    failures: list[BaseException] = []

    def publish() -> None:
        try:
            for _ in range(20):
                publisher.publish([make() for _ in range(10)])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=publish) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert publisher.queue_depth(["execute"]) == {"execute": 1000}


def test_a_broker_that_is_down_is_said_at_once_and_found_again(publisher: Publisher, broker: EmbeddedRedis) -> None:
    publisher.publish([make()])
    broker.stop()
    for _ in range(2):
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="ORCHESTRATOR_BROKER_URL"):
            publisher.publish([make()])
        with pytest.raises(Unavailable):
            publisher.queue_depth(["execute"])
        assert time.monotonic() - begun < ANSWER_SECONDS
    broker.start()
    publisher.publish([make()])


@pytest.mark.parametrize("connected", [True, False])
def test_a_broker_that_hangs_is_left_after_a_while(
    publisher: Publisher, broker: EmbeddedRedis, connected: bool
) -> None:
    if connected:
        publisher.publish([make()])
    assert broker.pid is not None
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        with pytest.raises(Unavailable):
            publisher.publish([make()])
        assert time.monotonic() - begun < 2 * ANSWER_SECONDS
    finally:
        os.kill(broker.pid, signal.SIGCONT)
    publisher.publish([make()])


def test_a_queue_whose_key_is_spoilt_is_said(publisher: Publisher, client: "redis.Redis") -> None:
    client.set("execute", "a stranger's")
    with pytest.raises(Unavailable):
        publisher.publish([make()])
    client.delete("execute")
    publisher.publish([make()])


def test_nobody_waits_long_behind_a_hanging_publish(publisher: Publisher, broker: EmbeddedRedis) -> None:
    publisher.publish([make()])
    assert broker.pid is not None
    os.kill(broker.pid, signal.SIGSTOP)
    seconds: list[float] = []

    def publish() -> None:
        begun = time.monotonic()
        with pytest.raises(Unavailable):
            publisher.publish([make()])
        seconds.append(time.monotonic() - begun)

    threads = [threading.Thread(target=publish) for _ in range(6)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        os.kill(broker.pid, signal.SIGCONT)
    assert len(seconds) == 6
    assert max(seconds) < 2.5 * ANSWER_SECONDS
