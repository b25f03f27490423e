"""A real worker on a real RabbitMQ: garbage, deleted queues, cut connections, unacknowledged messages, TLS.

The acceptance tests run on RabbitMQ with `make test-rabbitmq`.
"""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.errors import Unavailable
from shared_state.broker.app import make_app
from shared_state.broker.publisher import Publisher
from shared_state.settings import Settings

from ..brokers import RabbitBroker
from ..rabbitmq import NOT_INSTALLED, RabbitServer, rabbitmq_home
from .test_broker_worker import KEYS, WorkerProcess, make_message, prove_alive, publisher_again, wait_for

pytestmark = pytest.mark.skipif(rabbitmq_home() is None, reason=NOT_INSTALLED)


@pytest.fixture(scope="module")
def broker(rabbitmq: RabbitServer) -> RabbitBroker:
    made = RabbitBroker(rabbitmq)
    made.empty()
    return made


@pytest.fixture(scope="module")
def publisher(broker: RabbitBroker) -> Iterator[Publisher]:
    made = Publisher(make_app(Settings(broker_url=broker.url)), KEYS)
    yield made
    made.close()


@pytest.fixture(scope="module")
def worker(
    broker: RabbitBroker, publisher: Publisher, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    """One for all of them: none may end it."""
    worker = WorkerProcess(broker.url, tmp_path_factory.mktemp("worker"))
    try:
        prove_alive(worker, publisher)
        yield worker
    finally:
        worker.end()


def test_every_kind_of_garbage_is_stored_and_hurts_nobody(
    worker: WorkerProcess, rabbitmq: RabbitServer, broker: RabbitBroker, publisher: Publisher
) -> None:
    for number, (name, (piece, reason)) in enumerate(broker.garbage.items(), start=1):
        broker.lay("execute", [piece])
        wait_for(lambda number=number: len(worker.stored) >= number, worker, f"{name} is stored")
        found = worker.stored[-1]
        assert (len(worker.stored), found["reason"], found["queue"]) == (number, reason, "execute"), (name, found)
    with rabbitmq.channel() as channel:
        for piece, _ in broker.garbage.values():
            channel.basic_publish(piece, exchange="celery.pidbox")
    prove_alive(worker, publisher)
    wait_for(lambda: answers_questions(broker), worker, "it answers questions again")
    wait_for(lambda: broker.waiting() == 0, worker, "everything is acknowledged")


def test_only_the_queues_of_the_roles_are_declared_and_they_are_quorum_queues(
    worker: WorkerProcess, rabbitmq: RabbitServer
) -> None:
    kinds = dict(line.split("\t") for line in rabbitmq.control("list_queues", "name", "type").splitlines()[1:])
    ours = {name: kind for name, kind in kinds.items() if not name.endswith(".celery.pidbox")}
    assert ours == {"execute": "quorum", "review": "quorum"}


def test_queues_deleted_under_everybody(worker: WorkerProcess, broker: RabbitBroker, publisher: Publisher) -> None:
    running = make_message(milliseconds=1500)
    publisher.publish([running])
    wait_for(lambda: worker.begun(running), worker, "a handler runs")
    broker.empty()
    prove_alive(worker, publisher_again(publisher))
    wait_for(lambda: worker.done(running), worker, "the handler ends")
    wait_for(lambda: broker.waiting() == 0, worker, "nothing is left")


def test_a_message_for_a_queue_that_is_gone_is_not_taken_for_published(
    rabbitmq: RabbitServer, publisher: Publisher
) -> None:
    """On a queue that nobody consumes, and so nobody declares again."""
    lonely = make_message(queue="lonely")
    publisher.publish([lonely])
    with rabbitmq.channel() as channel:
        channel.queue_delete("lonely")
    with pytest.raises(Unavailable):
        publisher.publish([lonely])
    publisher.publish([lonely])
    assert publisher.queue_depth(["nowhere", "lonely", "not there"]) == {"nowhere": 0, "lonely": 1, "not there": 0}
    with rabbitmq.channel() as channel:
        channel.queue_delete("lonely")


def test_cut_connections(worker: WorkerProcess, broker: RabbitBroker, publisher: Publisher) -> None:
    running = make_message(milliseconds=1500)
    publisher.publish([running])
    wait_for(lambda: worker.begun(running), worker, "a handler runs")
    assert broker.cut() >= 2
    wait_for(lambda: worker.done(running), worker, "the handler ends")
    prove_alive(worker, publisher_again(publisher))
    wait_for(lambda: broker.waiting() == 0, worker, "everything is acknowledged")
    assert "Couldn't ack" not in worker.log()


def test_each_connection_of_a_worker_is_cut_by_itself(
    worker: WorkerProcess, rabbitmq: RabbitServer, broker: RabbitBroker, publisher: Publisher
) -> None:
    """None of them may silence it. What a freeze does to all of them is tests/acceptance/test_frozen_worker.py's."""
    publisher.close()
    for connection in rabbitmq.control("list_connections", "pid").splitlines()[1:]:
        rabbitmq.control("close_connection", connection, "by a test")
        # Longer than the pause between two heartbeats of Celery's.
        deadline = time.monotonic() + 3.0
        while time.monotonic() < deadline:
            prove_alive(worker, publisher)
    wait_for(lambda: answers_questions(broker), worker, "it answers questions again")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes the certificates, is not installed")
def test_the_server_is_verified_by_certificate_and_by_name(tmp_path: Path) -> None:
    """By name: a certificate of the same authority for another host is refused."""
    certificates = make_certificates(tmp_path / "tls", "IP:127.0.0.1")
    with RabbitServer(tmp_path / "server", tls=certificates) as server:
        trusting = f"{server.url}?ssl_ca_certs={certificates / 'ca.pem'}"
        publish_once(trusting)
        with pytest.raises(Unavailable):
            publish_once(server.url)
        with pytest.raises(Unavailable):
            publish_once(trusting.replace("127.0.0.1", "127.0.0.2"))
        publish_once(f"{server.url}?ssl_cert_reqs=none")


def answers_questions(broker: RabbitBroker) -> bool:
    """What is asked while its mailbox is being made anew is lost. On a connection of its own: the pool's may be cut."""
    app = make_app(Settings(broker_url=broker.url))
    with app.connection_for_write() as connection:
        return bool(app.control.ping(timeout=1.0, limit=1, connection=connection))


def publish_once(url: str) -> None:
    publisher = Publisher(make_app(Settings(broker_url=url)), KEYS)
    try:
        publisher.publish([make_message()])
    finally:
        publisher.close()


def make_certificates(folder: Path, name: str) -> Path:
    folder.mkdir()
    words = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -addext subjectAltName={name}"
    program = ["openssl", *words.split(), "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(program, cwd=folder, check=True, capture_output=True)
    shutil.copy(folder / "cert.pem", folder / "ca.pem")
    return folder
