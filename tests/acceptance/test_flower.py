"""Flower as `orchestrator flower` runs it, over real workers: closed to strangers on every path, for looking only,
without a payload anywhere, and with the three kinds of handlers in sight."""

import re
import socket
from collections.abc import Iterator

import httpx
import pytest
from flower.urls import handlers

from contracts.topology import HANDLER_OF_KIND
from orchestrator.embedded.folder import free_port
from orchestrator.flower import GuardedFlower
from shared_state import outbox
from shared_state.broker.app import is_redis
from shared_state.tasks import Created, Submission, submit

from . import planning_team
from .conftest import MakeHouse
from .house import House

PAYLOAD = "the-payload-that-nobody-must-see"
PASSWORD = "a password of the tests"
ROLES = ("planner", "executor", "reviewer")
WATCHER = ("watcher", PASSWORD)
INVENTED = (
    "/nothing/here",
    "/static/../../etc/passwd",
    "//metrics",
    "/metrics/",
    "/METRICS",
    "/metrics?x=1",
    "/%6Detrics",
)
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "INVENTED")


@pytest.fixture(scope="module")
def house(make_house: MakeHouse) -> Iterator[House]:
    """A worker a role, the loops and Flower, which has seen a message of every kind: a worker of all roles would do
    the whole task after its first message."""
    house = make_house(flower_listen=f"127.0.0.1:{free_port()}", flower_user=WATCHER[0], flower_password=PASSWORD)
    house.start_flower()
    house.until(lambda: answers(url_of(house)), "Flower answers", 30)
    house.start_workers(*ROLES, by_role=True)
    house.until(lambda: len(look(house, "/api/workers?refresh=1").json()) == 3, "Flower sees the workers", 30)
    house.apply(planning_team.team())
    house.until(lambda: run_one_of_each(house) == set(HANDLER_OF_KIND.values()), "Flower saw every kind", 60)
    return house


def run_one_of_each(house: House) -> set[str]:
    """The names of the messages that Flower has seen come to their end."""
    made = submit(house.engine, "default", [Submission(team="planning", input={"value": PAYLOAD})])
    (created,) = made.results
    assert isinstance(created, Created), created
    outbox.publish(house.publisher, made.wakeups)
    house.wait(created.task_id)
    return {task["name"] for task in look(house, "/api/tasks").json().values() if task["state"] == "SUCCESS"}


def url_of(house: House) -> str:
    return f"http://{house.settings.flower_listen}"


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 401
    except httpx.TransportError:
        return False


def look(house: House, path: str, method: str = "GET") -> httpx.Response:
    return httpx.request(method, url_of(house) + path, auth=WATCHER, timeout=20)


def paths() -> list[str]:
    """Every route that Flower has, as it is written there, with something in the place of its parameters."""
    patterns = [each[0] if isinstance(each, tuple) else each.regex.pattern for each in handlers]
    return [re.sub(r"\(\.[*+]\)", "x", pattern).rstrip("$?") for pattern in patterns if pattern != ".*"]


def test_strangers_get_401_on_every_path_by_every_method(house: House) -> None:
    assert len(paths()) > 30
    with httpx.Client(base_url=url_of(house)) as stranger:
        for path in (*paths(), *INVENTED):
            for method in METHODS:
                answer = stranger.request(method, path)
                assert answer.status_code == 401, (method, path, answer.status_code)
                assert answer.headers["www-authenticate"] == 'Basic realm="flower"'
                assert answer.content in (b"Unauthorized\n", b"")


@pytest.mark.parametrize(
    "shown", ["Basic", "Basic !", "Basic d2F0Y2hlcjo=", "Bearer x", "Basic " + "A" * 5000, "Digest username=watcher"]
)
def test_whatever_they_show(house: House, shown: str) -> None:
    for path in ("/metrics", "/api/workers"):
        assert httpx.get(url_of(house) + path, headers={"Authorization": shown}).status_code == 401


def test_a_strangers_body_is_not_waited_for_beyond_its_bound(house: House) -> None:
    host, _, port = house.settings.flower_listen.partition(":")
    with socket.create_connection((host, int(port)), 10) as stranger:
        stranger.sendall(b"POST /api/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n")
        assert b"200" not in stranger.recv(1000).splitlines()[:1]


def test_nobody_can_do_anything_but_look(house: House) -> None:
    worker = next(iter(look(house, "/api/workers").json()))
    acts = [path for path in paths() if path.startswith(("/api/worker/", "/api/task/"))]
    acts += [f"/api/worker/shutdown/{worker}", "/api/task/send-task/orchestrator.execute"]
    for path in acts:
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert look(house, path, method).status_code == 405, (method, path)
    assert all(house.processes[role].alive() for role in ROLES)


def test_without_the_door_flower_itself_would_refuse_to_act(house: House) -> None:
    assert GuardedFlower(house.settings).options.read_only is True


def test_the_three_kinds_and_the_workers_are_visible(house: House) -> None:
    seen = look(house, "/api/tasks").json().values()
    assert {task["name"] for task in seen} == {"orchestrator.plan", "orchestrator.execute", "orchestrator.review"}
    for task in seen:
        assert re.fullmatch(r"(plan|execute|review) \d+ steps? [0-9a-f-]{13}\.\. e\d+", task["args"]), task["args"]
        assert (task["kwargs"], task["exception"], task["traceback"]) == ("{}", None, None)
    workers = look(house, "/api/workers?refresh=1").json()
    assert {name.partition("@")[0] for name in workers} == set(ROLES)
    for worker in workers.values():
        assert set(worker["registered"]) == set(HANDLER_OF_KIND.values())
    assert "pidbox command error" not in house.tail(*ROLES), "it asks workers what they do not answer"


def test_no_payload_and_no_secret_is_on_any_page(house: House) -> None:
    tasks = look(house, "/api/tasks").json()
    workers = look(house, "/api/workers?refresh=1").json()
    pages = ["/", "/workers", "/tasks", "/broker", "/metrics", "/api/tasks", "/api/workers", "/api/task/types"]
    pages += [f"/task/{uuid}" for uuid in tasks] + [f"/api/task/info/{uuid}" for uuid in tasks]
    pages += [f"/worker/{name}" for name in workers]
    (signing,) = house.settings.signing_keys.values()
    broker = house.settings.broker_url.rpartition("@")[0].rpartition(":")[2]
    database = house.settings.database_url.rpartition("@")[0].rpartition(":")[2]
    assert len(broker) > 10
    for page in pages:
        answer = look(house, page)
        # Flower asks Redis for the lengths of queues; of RabbitMQ it would ask a plugin, and says that it does not.
        wanted = 404 if page == "/broker" and not is_redis(house.settings.broker_url) else 200
        assert answer.status_code == wanted, (page, answer.status_code)
        for secret in (PAYLOAD, signing.get_secret_value(), PASSWORD, broker, database):
            assert not secret or secret not in answer.text, (page, secret)


def test_without_a_password_it_does_not_start(house: House) -> None:
    house.start_flower("open", flower_password=None, flower_listen="127.0.0.1:0")
    assert house.exit_code("open", 30) == 1
    assert "flower_password: Flower shows itself to nobody without one" in house.tail("open")
    assert "Traceback" not in house.tail("open")
