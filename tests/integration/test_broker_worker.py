"""A real worker on a real Redis, fed everything a stranger could put on a queue.

This file is also the worker's program: `python test_broker_worker.py URL FOLDER` starts one whose handler writes down
what it got, and whose quarantine stores into a file while `FOLDER/sink.down` does not exist. Where `FOLDER/plain`
exists it has kombu's own transport, so that the consumer's guards stand alone, as they do on RabbitMQ.
"""

import base64
import gzip
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import signals
from kombu import Producer

from contracts.errors import CODES
from contracts.messages import Message, SigningKeys, StepRef, decode, encode
from contracts.topology import HANDLER_OF_KIND, MessageKind
from orchestrator.embedded import EmbeddedRedis
from shared_state.broker.app import make_app
from shared_state.broker.frames import make_frame
from shared_state.broker.pool import LoopPool, outlive
from shared_state.broker.publisher import Publisher
from shared_state.broker.quarantine import BadMessage, Quarantine
from shared_state.broker.wire import CONTENT_ENCODING, CONTENT_TYPE, CheckedEnvelope, pack
from shared_state.settings import Settings

SLOTS = 8
KEYS = SigningKeys({"test": b"a secret of the tests"})
SECONDS = 30.0


# The worker's program


class FileSink:
    """Stores bad messages as JSON lines, and fails while a file says that the store is down."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "stored.jsonl"
        self._down = folder / "sink.down"

    def __call__(self, bad: Sequence[BadMessage]) -> None:
        if self._down.exists():
            raise ConnectionError("the store is down")
        with self._file.open("a") as file:
            for one in bad:
                line = {"queue": one.queue, "reason": one.reason, "text": one.text, "size": one.size_bytes}
                line |= {"sha256": one.sha256, "kept": len(one.raw), "raw": one.raw[:80].hex(), "headers": one.headers}
                file.write(json.dumps(line) + "\n")


def run_worker(url: str, folder: Path) -> None:
    quarantine = Quarantine(FileSink(folder), retry_limit_seconds=0.5, waiting_limit=20)
    queues = ("execute", "review")
    app = make_app(Settings(broker_url=url), queues=queues, quarantine=quarantine, keys=KEYS)

    if (folder / "plain").exists():
        app.conf.broker_transport = None
        app.conf.broker_transport_options.clear()

    threads = ThreadPoolExecutor(SLOTS)

    def handle(envelope: dict[str, Any]) -> None:
        threads.submit(work, envelope, outlive())

    def work(envelope: dict[str, Any], over: Callable[[], None]) -> None:
        """The epoch says for how many milliseconds to work."""
        write(folder / "given", type(envelope).__name__)
        write(folder / "begun", envelope["id"])
        time.sleep(envelope["steps"][0]["epoch"] / 1000)
        write(folder / "done", envelope["id"])
        over()

    for kind in (MessageKind.EXECUTE, MessageKind.REVIEW):
        app.task(name=HANDLER_OF_KIND[kind])(handle)
    worker = app.Worker(
        pool=LoopPool,
        concurrency=SLOTS,
        hostname=f"{folder.name}@test",
        without_gossip=True,
        without_mingle=True,
        loglevel="INFO",
    )
    signals.worker_ready.connect(lambda sender, **_: drain_when_told(sender), weak=False)
    worker.start()
    sys.exit(worker.exitcode or 0)


def drain_when_told(consumer: Any) -> None:
    signal.signal(signal.SIGUSR1, lambda *_: threading.Thread(target=consumer.stop_taking).start())
    signal.signal(signal.SIGUSR2, lambda *_: threading.Thread(target=consumer.call_soon, args=[lose_timer]).start())

    def lose_timer() -> None:
        """With a flush of events planned, everything that is on the timer is lost."""
        consumer._flush_events()
        consumer.timer.clear()
        write(Path(sys.argv[2]) / "lost", "the timer")


def write(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")


# What the tests hold


class WorkerProcess:
    def __init__(self, url: str, folder: Path) -> None:
        self.folder = folder
        self._url = url
        self._log = (folder / "log").open("w")
        self.process = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, __file__, self._url, str(self.folder)]
        return subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def stored(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._lines("stored.jsonl")]

    def begun(self, message: Message) -> bool:
        return str(message.id) in self._lines("begun")

    def done(self, message: Message) -> bool:
        return str(message.id) in self._lines("done")

    def given(self) -> set[str]:
        """Types of what the handlers were given."""
        return set(self._lines("given"))

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def end(self) -> None:
        if self.alive:
            self.process.kill()
        self.process.wait()
        self._log.close()

    def _lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A server of this test's own: the tests wipe and kill it."""
    with EmbeddedRedis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def client(broker: EmbeddedRedis) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(broker.url) as connected:
        yield connected


@pytest.fixture
def publisher(broker: EmbeddedRedis) -> Iterator[Publisher]:
    publisher = Publisher(make_app(Settings(broker_url=broker.url)), KEYS)
    yield publisher
    publisher.close()


@pytest.fixture
def worker(
    broker: EmbeddedRedis, tmp_path: Path, publisher: Publisher, request: pytest.FixtureRequest
) -> Iterator[WorkerProcess]:
    """A worker that is up; `request.param` may be `plain`."""
    folder = tmp_path / "worker"
    folder.mkdir()
    if getattr(request, "param", "safe") == "plain":
        (folder / "plain").touch()
    process = WorkerProcess(broker.url, folder)
    try:
        prove_alive(process, publisher)
        yield process
    finally:
        process.end()


def make_message(queue: str = "execute", kind: str = "execute", milliseconds: int = 0) -> Message:
    steps = (StepRef(id=uuid.uuid4(), epoch=milliseconds),)
    return Message(id=uuid.uuid4(), kind=MessageKind(kind), queue=queue, steps=steps)


def prove_alive(worker: WorkerProcess, publisher: Publisher) -> None:
    message = make_message()
    publisher.publish([message])
    wait_for(lambda: worker.done(message), worker, "a good message is handled")


def wait_for(condition: Callable[[], Any], worker: WorkerProcess, what: str, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if not worker.alive or time.monotonic() > deadline:
            state = "did not happen" if worker.alive else f"cannot happen: the worker ended {worker.process.returncode}"
            pytest.fail(f"{what}: {state}\n{worker.log()[-4000:]}")
        time.sleep(0.02)


# The garbage: every kind with the reason it must be stored under


def frame(message: Message | None = None, **changes: Any) -> dict[str, Any]:
    """What lies on a Redis list for a message. `changes` replace top-level fields, headers or properties by name."""
    message = message or make_message()
    packed = pack(message, KEYS, "test")
    made: dict[str, Any] = {
        "body": base64.b64encode(packed.body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": dict(packed.headers),
        "properties": {
            "correlation_id": str(message.id),
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": message.queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }
    for name, value in changes.items():
        field = name.replace("_", "-") if name.startswith("content_") else name
        part = next((made[part] for part in ("headers", "properties") if field in made[part]), made)
        part[field] = value
    return made


def without(path: str) -> dict[str, Any]:
    made = frame()
    *parts, last = path.split(".")
    holder = made
    for part in parts:
        holder = holder[part]
    del holder[last]
    return made


def with_header(**headers: Any) -> dict[str, Any]:
    made = frame()
    made["headers"].update(headers)
    return made


def with_body(body: object) -> dict[str, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return frame(body=base64.b64encode(raw).decode())


def call_of(envelope: object, **options: Any) -> list[Any]:
    return [[envelope], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None, **options}]


def enveloped(**changes: Any) -> dict[str, Any]:
    """A frame whose envelope has other fields, rightly signed: what an older or newer publisher would send."""
    message = make_message()
    fields = {**message.model_dump(mode="json"), **changes}
    made = frame(message, id=str(message.id))
    made["body"] = base64.b64encode(json.dumps(call_of(KEYS.sign(fields))).encode()).decode()
    return made


def forged() -> dict[str, Any]:
    message = make_message()
    strangers = SigningKeys({"test": b"another secret than ours"})
    made = frame(message)
    made["body"] = base64.b64encode(json.dumps(call_of(encode(message, strangers))).encode()).decode()
    return made


def dumped(value: object) -> bytes:
    return json.dumps(value).encode()


def bomb() -> dict[str, Any]:
    made = with_header(compression="application/x-gzip")
    made["body"] = base64.b64encode(gzip.compress(b"[" * 20_000_000)).decode()
    return made


UNDECODABLE, ENVELOPE, LARGE = "message.undecodable", "message.envelope", "message.too_large"
KINDS: dict[str, tuple[bytes, str]] = {
    # The table of what kills or fools Celery 5.7 by default.
    "not JSON": (b"hello", UNDECODABLE),
    "not UTF-8": (b"\xff\xfe\x00", UNDECODABLE),
    "a number": (b"123", UNDECODABLE),
    "a list": (b"[]", UNDECODABLE),
    "body not base64": (dumped(frame(body="***")), UNDECODABLE),
    "an empty object": (b"{}", ENVELOPE),
    "no properties": (dumped(without("properties")), ENVELOPE),
    "body is no triple": (dumped(with_body({"a": 1})), ENVELOPE),
    "timelimit is text": (dumped(frame(timelimit="abc")), ENVELOPE),
    "bad JSON body": (dumped(with_body(b"{nope")), UNDECODABLE),
    "bad compression": (dumped(with_header(compression="application/x-gzip")), ENVELOPE),
    "unknown compression": (dumped(with_header(compression="zip9")), ENVELOPE),
    "pickle": (
        dumped({**with_body(pickle.dumps([1])), "content-type": "application/x-python-serialize"}),
        UNDECODABLE,
    ),
    "unknown content type": (dumped(frame(content_type="text/x-strange")), UNDECODABLE),
    "bad eta": (dumped(frame(eta="tomorrow")), ENVELOPE),
    "bad expires": (dumped(frame(expires="never")), ENVELOPE),
    "unknown handler": (dumped(frame(task="orchestrator.destroy")), "message.handler"),
    "headers null": (dumped(frame(headers=None)), ENVELOPE),
    "no task": (dumped(without("headers.task")), ENVELOPE),
    "no id": (dumped(without("headers.id")), ENVELOPE),
    "content encoding utf-99": (dumped(frame(content_encoding="utf-99")), UNDECODABLE),
    "retries zz": (dumped(frame(retries="zz")), ENVELOPE),
    # What else a stranger, or an older release of ours, could send.
    "nothing": (b"", UNDECODABLE),
    "nested deeply": (b"[" * 20_000, UNDECODABLE),
    "a huge integer": (b"1" * 20_000, UNDECODABLE),
    "5 MB": (b"x" * 5_000_000, LARGE),
    "a large valid frame": (dumped(frame(argsrepr="x" * 70_000)), LARGE),
    "a large body": (dumped(with_body(call_of("x" * 9_000))), LARGE),
    "delivery tag missing": (dumped(without("properties.delivery_tag")), ENVELOPE),
    "delivery tag a number": (dumped(frame(delivery_tag=7)), ENVELOPE),
    "delivery tag a surrogate": (dumped(frame(delivery_tag="\ud800")), ENVELOPE),
    "priority infinite": (dumped(frame(priority=float("inf"))), ENVELOPE),
    "no destination": (dumped(without("properties.delivery_info")), ENVELOPE),
    "another destination": (dumped(frame(delivery_info={"exchange": "", "routing_key": "unacked"})), ENVELOPE),
    "through an exchange": (dumped(frame(delivery_info={"exchange": "celery", "routing_key": "execute"})), ENVELOPE),
    "unknown body encoding": (dumped(frame(body_encoding="rot13")), ENVELOPE),
    "body null": (dumped(frame(body=None)), ENVELOPE),
    "a decompression bomb": (dumped(bomb()), ENVELOPE),
    "NUL and surrogate in a header": (dumped(with_header(origin="\x00\ud800")), ENVELOPE),
    "eta in a year": (dumped(frame(eta="2030-01-01T00:00:00+00:00")), ENVELOPE),
    "expired long ago": (dumped(frame(expires="2001-01-01T00:00:00+00:00")), ENVELOPE),
    "a callback": (dumped(with_body(call_of({}, callbacks=[{"task": "orchestrator.execute"}]))), ENVELOPE),
    "two arguments": (dumped(with_body([[{}, {}], {}, call_of({})[2]])), ENVELOPE),
    "keywords": (dumped(with_body([[{}], {"a": 1}, call_of({})[2]])), ENVELOPE),
    "a strange header": (dumped(with_header(reply="me")), ENVELOPE),
    "protocol 1": (
        dumped({**with_body({"task": "orchestrator.execute", "id": "1", "args": []}), "headers": {}}),
        ENVELOPE,
    ),
    "of Celery itself": (dumped(frame(task="celery.backend_cleanup")), "message.handler"),
    "envelope is text": (dumped(with_body(call_of("run it"))), ENVELOPE),
    "wrong signature": (dumped(forged()), "message.signature"),
    "no signature": (dumped(with_body(call_of(make_message().model_dump(mode="json")))), "message.signature"),
    "old version": (dumped(enveloped(version=0)), "message.version"),
    "unknown kind": (dumped(enveloped(kind="destroy")), "message.kind"),
    "an unknown field": (dumped(enveloped(more=1)), ENVELOPE),
    "kind of another handler": (dumped(frame(task=HANDLER_OF_KIND[MessageKind.REVIEW])), "message.handler"),
    "handler this worker lacks": (dumped(frame(make_message(kind="plan"))), "message.handler"),
    "id of another message": (dumped(frame(id=str(uuid.uuid4()))), ENVELOPE),
    "signed for another queue": (
        dumped(frame(make_message(queue="review"), delivery_info={"exchange": "", "routing_key": "execute"})),
        ENVELOPE,
    ),
}


FRAME_KINDS = {
    "not JSON",
    "not UTF-8",
    "a number",
    "a list",
    "body not base64",
    "an empty object",
    "no properties",
    "nothing",
    "nested deeply",
    "a huge integer",
    "5 MB",
    "delivery tag missing",
    "delivery tag a number",
    "delivery tag a surrogate",
    "priority infinite",
    "no destination",
    "another destination",
    "unknown body encoding",
}
"""What only the safe transport can stop: kombu fails on it, or mistakes it, before anybody is asked."""


def test_every_kind_of_garbage_is_stored_and_hurts_nobody(
    worker: WorkerProcess, client: "redis.Redis", publisher: Publisher
) -> None:
    for number, (name, (raw, reason)) in enumerate(KINDS.items(), start=1):
        client.lpush("execute", raw)
        prove_alive(worker, publisher)
        wait_for(lambda number=number: len(worker.stored) >= number, worker, f"{name} is stored")
        assert len(worker.stored) == number, name
        found = worker.stored[-1]
        assert (found["reason"], found["queue"]) == (reason, "execute"), (name, found)
        assert reason in CODES
        assert found["size"] >= len(raw) * 0.9, name
        assert found["kept"] == min(found["size"], 1_000_000), name
    wait_for(lambda: client.hlen("unacked") == 0, worker, "everything is acknowledged")
    assert client.llen("execute") == 0


@pytest.mark.parametrize("worker", ["plain"], indirect=True)
def test_the_consumer_alone_stops_every_kind_that_gets_so_far(
    worker: WorkerProcess, client: "redis.Redis", publisher: Publisher
) -> None:
    kinds = {name: raw for name, (raw, _) in KINDS.items() if name not in FRAME_KINDS}
    for number, (name, raw) in enumerate(kinds.items(), start=1):
        client.lpush("execute", raw)
        prove_alive(worker, publisher)
        wait_for(lambda number=number: len(worker.stored) >= number, worker, f"{name} is stored")
        assert len(worker.stored) == number, name
    wait_for(lambda: client.hlen("unacked") == 0, worker, "everything is acknowledged")


def test_a_flood_of_every_kind_at_once(worker: WorkerProcess, client: "redis.Redis", publisher: Publisher) -> None:
    good = [make_message() for _ in range(150)]
    for first in range(0, 150, 50):
        client.lpush("execute", *(raw for raw, _ in KINDS.values()))
        publisher.publish(good[first : first + 50])
    wait_for(lambda: len(worker.stored) == 3 * len(KINDS), worker, "all garbage is stored")
    wait_for(lambda: all(worker.done(message) for message in good), worker, "all good messages are handled")
    wait_for(lambda: client.hlen("unacked") == 0, worker, "everything is acknowledged")


def test_a_frame_as_the_tests_make_it_is_a_good_message(worker: WorkerProcess, client: "redis.Redis") -> None:
    """Else every kind above could be refused for a reason of its own."""
    message = make_message()
    client.lpush("execute", dumped(frame(message)))
    wait_for(lambda: worker.done(message), worker, "the frame is handled")
    assert worker.stored == []


@pytest.mark.parametrize("worker", ["safe", "plain"], indirect=True)
def test_a_handler_is_given_what_was_checked(
    worker: WorkerProcess, broker: EmbeddedRedis, publisher: Publisher
) -> None:
    message = make_message(milliseconds=2000)
    publisher.publish([message])
    wait_for(lambda: worker.begun(message), worker, "it is handled")
    assert worker.given() == {CheckedEnvelope.__name__}
    # Who asks what runs is shown the arguments as they came.
    (running,) = make_app(Settings(broker_url=broker.url)).control.inspect(timeout=5.0, limit=1).active().values()
    assert decode(running[0]["args"][0], KEYS) == message


def test_keys_of_a_wrong_type_are_moved_aside(
    worker: WorkerProcess, client: "redis.Redis", publisher: Publisher
) -> None:
    client.hset("execute", "a", "b")
    wait_for(lambda: len(worker.stored) == 1, worker, "the queue's key is moved")
    prove_alive(worker, publisher)
    client.delete("unacked", "unacked_index")
    client.set("unacked", "a stranger's")
    client.set("unacked_index", "a stranger's")
    prove_alive(worker, publisher)
    wait_for(lambda: len(worker.stored) == 3, worker, "both keys are moved")
    assert {line["queue"] for line in worker.stored} == {"execute", "unacked", "unacked_index"}
    assert len(client.keys("*.moved-aside.*")) == 3


def test_foreign_entries_among_the_unacknowledged(
    worker: WorkerProcess, client: "redis.Redis", publisher: Publisher
) -> None:
    lost = make_message()
    entries = {
        "not-json": b"{",
        "not-a-triple": b"{}",
        "not-a-frame": dumped([{"a": 1}, "", "execute"]),
        "not-a-queue": dumped([frame(), "", "\x00"]),
        "ours": dumped([frame(lost), "", "execute"]),
    }
    client.hset("unacked", mapping=entries)  # type: ignore[arg-type]
    client.zadd("unacked_index", dict.fromkeys(entries, 1))
    wait_for(lambda: worker.done(lost), worker, "what a dead worker left is handed out again")
    wait_for(lambda: len(worker.stored) == 4, worker, "the foreign entries are stored")
    assert {line["queue"] for line in worker.stored} == {"unacked"}
    prove_alive(worker, publisher)
    wait_for(lambda: client.hlen("unacked") == 0, worker, "none is left")


def test_the_control_channel_answers_questions_only(
    worker: WorkerProcess, broker: EmbeddedRedis, client: "redis.Redis", publisher: Publisher
) -> None:
    channel = "/0.celery.pidbox"
    garbage = [b"x", b"123", b"[]", b"{}", b"[" * 20_000, b"\xff", dumped(bomb()), dumped(frame()), dumped(forged())]
    assert all(client.publish(channel, raw) == 1 for raw in garbage)
    wait_for(lambda: worker.log().count("control message dropped") == 7, worker, "all but the two frames are dropped")
    control = make_app(Settings(broker_url=broker.url)).control
    assert control.ping(timeout=5.0, limit=1)
    assert control.inspect(timeout=5.0, limit=1).stats()
    assert control.inspect(timeout=5.0, limit=1).active_queues()
    for command in ("shutdown", "pool_shrink", "rate_limit", "revoke", "cancel_consumer", "conf"):
        control.broadcast(command, arguments={"queue": "execute", "task_id": "x", "task_name": "orchestrator.execute"})
    assert control.ping(timeout=5.0, limit=1)
    prove_alive(worker, publisher)


def test_nothing_is_acknowledged_before_it_is_stored(
    worker: WorkerProcess, client: "redis.Redis", publisher: Publisher
) -> None:
    down = worker.folder / "sink.down"
    down.touch()
    client.lpush("execute", dumped(forged()), b"hello")
    wait_for(lambda: "not stored yet" in worker.log(), worker, "storing fails")
    prove_alive(worker, publisher)
    wait_for(lambda: client.hlen("unacked") == 1, worker, "the forged message alone is held by Redis")
    assert worker.stored == []
    down.unlink()
    wait_for(lambda: len(worker.stored) == 2, worker, "both are stored")
    wait_for(lambda: client.hlen("unacked") == 0, worker, "the forged message is acknowledged")


def test_a_full_quarantine_stops_taking_messages(
    worker: WorkerProcess, client: "redis.Redis", publisher: Publisher
) -> None:
    (worker.folder / "sink.down").touch()
    client.lpush("execute", *[b"hello"] * 100)
    wait_for(lambda: client.llen("execute") <= 100 - 20, worker, "the worker takes what it can hold")
    message = make_message()
    publisher.publish([message])
    held = client.llen("execute")
    assert held >= 70, "it goes on taking messages that it cannot store"
    (worker.folder / "sink.down").unlink()
    wait_for(lambda: len(worker.stored) == 100, worker, "all are stored in the end")
    wait_for(lambda: worker.done(message), worker, "and the good message is handled")


def test_a_stopped_worker_gives_back_what_it_could_not_store(worker: WorkerProcess, client: "redis.Redis") -> None:
    (worker.folder / "sink.down").touch()
    client.lpush("execute", b"hello", dumped(forged()))
    wait_for(lambda: client.llen("execute") == 0, worker, "the worker takes both")
    worker.process.terminate()
    worker.process.wait(timeout=SECONDS)
    assert client.llen("execute") == 2
    assert b"hello" in client.lrange("execute", 0, -1)


def test_a_wiped_broker(worker: WorkerProcess, client: "redis.Redis", publisher: Publisher) -> None:
    running = [make_message(milliseconds=1500) for _ in range(SLOTS // 2)]
    publisher.publish(running)
    wait_for(lambda: all(worker.begun(message) for message in running), worker, "handlers run")
    client.flushall()
    wait_for(lambda: all(worker.done(message) for message in running), worker, "handlers end")
    prove_alive(worker, publisher)


def test_cut_connections(worker: WorkerProcess, client: "redis.Redis", publisher: Publisher) -> None:
    running = [make_message(milliseconds=1500) for _ in range(SLOTS)]
    publisher.publish(running)
    wait_for(lambda: all(worker.begun(message) for message in running), worker, "handlers run")
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    wait_for(lambda: all(worker.done(message) for message in running), worker, "handlers end")
    prove_alive(worker, publisher_again(publisher))
    wait_for(lambda: client.hlen("unacked") == 0, worker, "everything is acknowledged")


def test_events_flow_again_after_cut_connections(
    worker: WorkerProcess, broker: EmbeddedRedis, client: "redis.Redis", publisher: Publisher
) -> None:
    watch_one(worker, broker, publisher)
    for cut in range(1, 4):
        # Mid-work, with events that wait to be told of.
        publisher.publish([make_message(milliseconds=1) for _ in range(50)])
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        publisher_again(publisher)
        wait_for(lambda cut=cut: worker.log().count("Connected to") > cut, worker, "it reconnects")
        watch_one(worker, broker, publisher)


def test_events_flow_although_a_planned_flush_is_lost(
    worker: WorkerProcess, broker: EmbeddedRedis, publisher: Publisher
) -> None:
    worker.process.send_signal(signal.SIGUSR2)
    wait_for((worker.folder / "lost").exists, worker, "its timer is emptied")
    watch_one(worker, broker, publisher)


def watch_one(worker: WorkerProcess, broker: EmbeddedRedis, publisher: Publisher) -> None:
    """Have messages handled until all is seen of one of them, in the way that Flower sees it."""
    app = make_app(Settings(broker_url=broker.url))
    seen: set[tuple[str, str]] = set()
    with app.connection() as connection:
        receiver = app.events.Receiver(connection, {"*": lambda event: seen.add((event["type"], event.get("uuid")))})
        watcher = threading.Thread(target=receiver.capture, kwargs={"limit": None, "timeout": None, "wakeup": False})
        watcher.start()
        messages: list[Message] = []
        began = time.monotonic()

        def is_seen() -> bool:
            # What happens before the receiver is subscribed nobody sees. Few, since many are told of without waiting.
            if time.monotonic() - began > 0.5 * len(messages):
                messages.append(make_message())
                publisher.publish(messages[-1:])
            types = ("task-received", "task-started", "task-succeeded")
            return any(all((kind, str(each.id)) in seen for kind in types) for each in messages)

        try:
            wait_for(is_seen, worker, "Flower sees a message come, begin and end", 10)
        finally:
            receiver.should_stop = True
            watcher.join(5)


def test_a_killed_and_restarted_broker(worker: WorkerProcess, broker: EmbeddedRedis, publisher: Publisher) -> None:
    running = [make_message(milliseconds=1500) for _ in range(SLOTS)]
    publisher.publish(running)
    wait_for(lambda: all(worker.begun(message) for message in running), worker, "handlers run")
    assert broker.pid is not None
    os.kill(broker.pid, signal.SIGKILL)
    wait_for(lambda: not broker.alive(), worker, "the broker is dead")
    wait_for(lambda: "Connection to broker lost" in worker.log(), worker, "the worker notices")
    broker.start()
    prove_alive(worker, publisher_again(publisher))


def test_a_told_worker_ends_what_runs_and_leaves_the_rest(
    worker: WorkerProcess, client: "redis.Redis", publisher: Publisher
) -> None:
    running = [make_message(milliseconds=1500) for _ in range(SLOTS)]
    publisher.publish(running)
    wait_for(lambda: all(worker.begun(message) for message in running), worker, "handlers run")
    waiting = [make_message() for _ in range(3)]
    publisher.publish(waiting)
    worker.process.terminate()
    assert worker.process.wait(timeout=SECONDS) == 0
    assert all(worker.done(message) for message in running)
    assert client.hlen("unacked") == 0
    assert client.llen("execute") == len(waiting)


def test_a_draining_worker_takes_nothing_and_acknowledges_what_ends(
    worker: WorkerProcess, client: "redis.Redis", publisher: Publisher
) -> None:
    running = [make_message(milliseconds=1500) for _ in range(SLOTS // 2)]
    publisher.publish(running)
    wait_for(lambda: all(worker.begun(message) for message in running), worker, "handlers run")
    worker.process.send_signal(signal.SIGUSR1)
    wait_for(lambda: "Canceling queue review" in worker.log(), worker, "it stops taking messages")
    waiting = [make_message() for _ in range(20)]
    publisher.publish(waiting)
    wait_for(lambda: all(worker.done(message) for message in running), worker, "handlers end")
    wait_for(lambda: client.hlen("unacked") == 0, worker, "and are acknowledged while it runs")
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    wait_for(lambda: "Connection to broker lost" in worker.log(), worker, "it reconnects")
    wait_for(lambda: worker.log().count("Connected to") == 2, worker, "it reconnects")
    worker.process.terminate()
    assert worker.process.wait(timeout=SECONDS) == 0
    assert not any(worker.begun(message) for message in waiting)
    assert client.llen("execute") == len(waiting)


def publisher_again(publisher: Publisher) -> Publisher:
    publisher.close()
    return publisher


if __name__ == "__main__":
    run_worker(sys.argv[1], Path(sys.argv[2]))


def test_a_worker_that_ends_has_told_redis_what_it_acknowledged(
    worker: WorkerProcess, client: "redis.Redis", publisher: Publisher
) -> None:
    messages = [make_message() for _ in range(20)]
    publisher.publish(messages)
    wait_for(lambda: all(worker.done(message) for message in messages), worker, "all are handled")
    worker.process.terminate()
    worker.process.wait(10)
    assert client.hlen("unacked") == 0
    assert client.zcard("unacked_index") == 0


def test_our_frames_are_those_that_kombu_makes(broker: EmbeddedRedis, client: "redis.Redis") -> None:
    packed = pack(make_message(queue="frames"), KEYS, "test")
    app = make_app(Settings(broker_url=broker.url))
    with app.connection_for_write() as connection:
        Producer(connection, auto_declare=False).publish(
            packed.body,
            routing_key=packed.queue,
            content_type=CONTENT_TYPE,
            content_encoding=CONTENT_ENCODING,
            headers=packed.headers,
            correlation_id=packed.headers["id"],
        )
    theirs, ours = json.loads(client.rpop("frames")), json.loads(make_frame(packed))
    assert theirs["properties"].pop("delivery_tag") != ours["properties"].pop("delivery_tag")
    assert ours == theirs
