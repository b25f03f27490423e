"""The webhook against real receivers on loopback: good, broken, slow, redirecting, gone."""

import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from contracts.errors import Failure, Unavailable
from contracts.settlements import Bury
from orchestrator.loops.main import make_loops
from orchestrator.loops.webhook import Webhook, checked_addresses, tell
from shared_state import webhooks
from shared_state.outbox import MessagePublisher
from shared_state.settings import Settings

from .driver import Driver

SECRET = "a secret of the webhook"


@dataclass
class Receiver:
    """`status_of` decides what each request is answered with, by the dead letter's text."""

    url: str = ""
    status_of: Callable[[str], int] = lambda _text: 204
    got: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        return [json.loads(body)["dead_letter"]["text"] for _, _, body in self.got]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.got.append((self.path, dict(self.headers), body))
            status = found.status_of(json.loads(body)["dead_letter"]["text"])
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", f"{found.url}/elsewhere")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def driver(engine: Engine) -> Driver:
    return Driver(engine)


def bury(driver: Driver, *texts: str) -> None:
    driver.submit([{"id": f"s{index}", "input": {"secret": "input"}} for index, _ in enumerate(texts)])
    for assignment, text in zip(driver.claim(), texts, strict=True):
        driver.settle(assignment, Bury(failure=Failure(code="agent.unable", text=text)))


def marks(driver: Driver) -> list[tuple[bool, bool, int, str | None]]:
    """For each dead letter: is it due some time, was it told, how many tries, the last error."""
    rows = driver.query("select * from dead_letters order by id")
    return [
        (
            row["webhook_due_at"] is not None,
            row["webhook_sent_at"] is not None,
            row["webhook_count"],
            row["webhook_error"],
        )
        for row in rows
    ]


def make_due(driver: Driver) -> None:
    """Let every pause be over: moving the time in the row, not the clock."""
    driver.query("update dead_letters set webhook_due_at = clock_timestamp() where webhook_due_at is not null")


def test_each_dead_letter_is_told_once_signed_and_without_inputs(driver: Driver, receiver: Receiver) -> None:
    bury(driver, "one", "two")
    webhook = Webhook(f"{receiver.url}/hook?token=x", SECRET)
    assert tell(driver.engine, webhook)
    assert not tell(driver.engine, webhook)
    assert receiver.texts == ["one", "two"]
    assert marks(driver) == [(False, True, 1, None)] * 2
    path, headers, body = receiver.got[0]
    moment, signature = (part.partition("=")[2] for part in headers["Orchestrator-Signature"].split(","))
    expected = hmac.new(SECRET.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    assert (path, signature) == ("/hook?token=x", expected)
    letter = json.loads(body)["dead_letter"]
    assert headers["Orchestrator-Delivery"] == letter["id"]
    assert (letter["reason"], letter["tenant"], letter["step_key"]) == ("agent.unable", "default", "s0")
    assert b"input" not in body


def test_a_receiver_that_is_not_well_is_left_alone_and_told_later(driver: Driver, receiver: Receiver) -> None:
    bury(driver, "one", "two", "three")
    receiver.status_of = lambda _text: 503
    webhook = Webhook(receiver.url, None)
    tell(driver.engine, webhook)
    assert receiver.texts == ["one"]
    assert marks(driver) == [(True, False, 1, "it answered 503")] * 3
    tell(driver.engine, webhook)
    assert receiver.texts == ["one"]
    make_due(driver)
    receiver.status_of = lambda _text: 200
    tell(driver.engine, webhook)
    assert sorted(receiver.texts) == ["one", "one", "three", "two"]
    assert marks(driver) == [(False, True, 2, None)] * 3
    assert "Orchestrator-Signature" not in receiver.got[0][1]
    assert [webhooks.pause_seconds(count) for count in (1, 2, 3, 20, 10_000)] == [2, 4, 8, 3600, 3600]


def test_one_that_is_refused_holds_up_no_other(driver: Driver, receiver: Receiver) -> None:
    bury(driver, "bad", "good")
    receiver.status_of = lambda text: 400 if text == "bad" else 200
    tell(driver.engine, Webhook(receiver.url, None))
    assert marks(driver) == [(True, False, 1, "it answered 400"), (False, True, 1, None)]


def test_redirects_are_not_followed(driver: Driver, receiver: Receiver) -> None:
    bury(driver, "one")
    receiver.status_of = lambda _text: 307
    tell(driver.engine, Webhook(f"{receiver.url}/hook", None))
    assert [path for path, _, _ in receiver.got] == ["/hook"]
    assert marks(driver) == [(True, False, 1, "it answered 307; redirects are not followed")]


def test_what_was_taken_by_a_process_that_died_is_told_by_another(driver: Driver, receiver: Receiver) -> None:
    bury(driver, "one")
    assert len(webhooks.take(driver.engine)) == 1
    assert not tell(driver.engine, Webhook(receiver.url, None))
    assert receiver.got == []
    make_due(driver)
    assert tell(driver.engine, Webhook(receiver.url, None))
    assert marks(driver) == [(False, True, 2, None)]


def test_a_late_failure_does_not_undo_what_somebody_else_told(driver: Driver) -> None:
    bury(driver, "one")
    (slow,) = webhooks.take(driver.engine)
    make_due(driver)
    (fast,) = webhooks.take(driver.engine)
    webhooks.mark_told(driver.engine, fast)
    webhooks.postpone(driver.engine, [slow], "too slow")
    webhooks.give_back(driver.engine, [slow])
    assert marks(driver) == [(False, True, 2, None)]


def test_a_pass_ends_in_time_and_gives_the_rest_back(driver: Driver, receiver: Receiver) -> None:
    bury(driver, "one", "two", "three")
    times = iter([0.0, 1.0, 11.0])
    assert tell(driver.engine, Webhook(receiver.url, None), lambda: next(times))
    assert receiver.texts == ["one"]
    assert marks(driver) == [(False, True, 1, None), (True, False, 0, None), (True, False, 0, None)]
    assert tell(driver.engine, Webhook(receiver.url, None))
    assert receiver.texts == ["one", "two", "three"]


def test_what_is_too_old_is_given_up(driver: Driver, receiver: Receiver) -> None:
    bury(driver, "one")
    driver.query(
        "update dead_letters set created_at = created_at - interval '4 days', webhook_error = 'it answered 500'"
    )
    assert not tell(driver.engine, Webhook(receiver.url, None))
    assert (receiver.got, marks(driver)) == ([], [(False, False, 1, "it answered 500")])


def test_a_receiver_that_drips_is_cut_off(driver: Driver) -> None:
    bury(driver, "one")
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                while not stop.wait(0.05):
                    try:
                        connection.sendall(b"HTTP/1.1 200 OK\r\n"[:1])
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        tell(driver.engine, Webhook(f"http://127.0.0.1:{listener.getsockname()[1]}", None, total_seconds=0.4))
        stop.set()
        thread.join()
    assert marks(driver) == [(True, False, 1, "no answer within 0.4 seconds")]


def test_a_receiver_that_is_gone_is_told_later_and_its_address_is_not_shown(driver: Driver) -> None:
    bury(driver, "one")
    tell(driver.engine, Webhook("http://127.0.0.1:1/token", None))
    assert marks(driver) == [(True, False, 1, "the connection failed (ConnectError)")]
    assert "token" not in repr(Webhook("http://127.0.0.1:1/token", SECRET))


@pytest.mark.parametrize("host", ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "224.0.0.1", "0.0.0.0", "::"])
def test_addresses_that_nobody_may_send_to(host: str) -> None:
    with pytest.raises(Unavailable):
        checked_addresses(host, 80)


def test_names_are_resolved_and_checked(driver: Driver) -> None:
    assert "127.0.0.1" in checked_addresses("localhost", 80)
    with pytest.raises(Unavailable):
        checked_addresses("nowhere.invalid", 80)
    bury(driver, "one")
    tell(driver.engine, Webhook("http://169.254.169.254/latest", None))
    ((due, told, _, error),) = marks(driver)
    assert (due, told) == (True, False)
    assert error is not None
    assert "not allowed" in error


def test_the_loop_runs_only_where_an_address_is_set(engine: Engine, receiver: Receiver) -> None:
    class Nobody:
        def publish(self, messages: Any) -> None:
            raise AssertionError("nothing is published here")

    publisher: MessagePublisher = Nobody()
    assert "webhook" not in [loop.name for loop in make_loops(Settings(), engine, publisher)]
    settings = Settings(dead_letter_webhook_url=SecretStr(receiver.url))
    (loop,) = [loop for loop in make_loops(settings, engine, publisher) if loop.name == "webhook"]
    bury(Driver(engine), "one")
    assert loop.pass_once()
    assert receiver.texts == ["one"]
