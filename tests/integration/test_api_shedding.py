"""Under what no API can serve: it says 503 and when to come back, at once, and goes on by itself afterwards."""

import asyncio
import json
import select
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import Engine

from contracts.errors import Failure
from contracts.settlements import Bury
from orchestrator.embedded import EmbeddedPostgres
from shared_state.engine import make_engine, transaction
from shared_state.migrate import upgrade
from shared_state.outbox import relay
from shared_state.statements import query

from .api_server import LiveApi, apply_team, claim, make_keys, running_api, settle, until
from .test_rules import Sink

CLIENTS = 200
PLAN = {"steps": [{"id": "a", "agent": "write"}]}


@contextmanager
def crowded(engine: Engine, database_url: str, redis_url: str, pool_size: int, **changed: Any) -> Iterator[LiveApi]:
    """An API with a pool of a few connections, which are `api.engine`'s."""
    apply_team(engine)
    keys = make_keys(engine)
    few = make_engine(database_url, pool_size=pool_size, pool_seconds=1)
    try:
        with running_api(few, database_url, redis_url, **changed) as url:
            yield LiveApi(url, few, keys)
    finally:
        few.dispose()


def crowd(api: LiveApi, path: str = "/tasks", count: int = CLIENTS) -> list[httpx.Response]:
    """The answers to so many clients at once, half of them submitting."""

    async def ask() -> list[httpx.Response]:
        headers = {"Authorization": f"Bearer {api.key_of['admin']}"}
        limits = httpx.Limits(max_connections=count)
        async with httpx.AsyncClient(base_url=f"{api.url}/v1", headers=headers, timeout=30, limits=limits) as client:
            body = {"team": "letters", "plan": PLAN}
            return await asyncio.gather(
                *(client.post(path, json=body) if n % 2 else client.get(path) for n in range(count))
            )

    return asyncio.run(ask())


def check_shed(answers: list[httpx.Response]) -> Counter[int]:
    """Whoever was not served was told when to come back, in our form."""
    for answer in answers:
        if answer.status_code >= 400:
            assert answer.status_code == 503, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["code"] in ("unavailable", "overloaded")
    return Counter(answer.status_code for answer in answers)


def test_two_hundred_clients_on_a_few_connections_are_served(engine: Engine, database_url: str, redis_url: str) -> None:
    with crowded(engine, database_url, redis_url, 3) as api:
        statuses = check_shed(crowd(api))
        assert statuses[200] + statuses[201] > 0
        with transaction(engine) as connection:  # what was answered 201 was made, and what was answered 503 was not
            (row,) = query(connection, "select count(*) as n from tasks")
        assert row["n"] == statuses[201]
        assert until(lambda: check_shed(crowd(api, count=4)) == {200: 2, 201: 2})


def test_an_exhausted_pool_sheds_and_after_the_first_have_waited_at_once(
    engine: Engine, database_url: str, redis_url: str
) -> None:
    with crowded(engine, database_url, redis_url, 2) as api:
        assert check_shed(crowd(api, count=2)) == {200: 1, 201: 1}
        with ExitStack() as held:
            for _ in range(2):
                held.enter_context(api.engine.connect())
            began = time.monotonic()
            assert check_shed(crowd(api)) == {503: CLIENTS}
            # Those that were let in wait their second each, 40 at a time.
            assert time.monotonic() - began < 15
            with api.http() as client:

                def seconds() -> float:
                    asked = time.monotonic()
                    check_shed([client.get("/tasks")])
                    return time.monotonic() - asked

                assert until(lambda: seconds() >= 0 and seconds() < 0.9, 30)
            assert httpx.get(f"{api.url}/v1/health").status_code == 200
        assert until(lambda: check_shed(crowd(api, count=4)) == {200: 2, 201: 2})


def test_a_stopped_postgres_is_503_and_back_by_itself(redis_url: str, tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "postgres") as server:
        upgrade(server.url)
        engine = make_engine(server.url, pool_size=5)
        with crowded(engine, server.url, redis_url, 3) as api:
            assert check_shed(crowd(api, count=4)) == {200: 2, 201: 2}
            server.stop()
            began = time.monotonic()
            assert check_shed(crowd(api)) == {503: CLIENTS}
            assert time.monotonic() - began < 10
            ready = httpx.get(f"{api.url}/ready")
            assert (ready.status_code, ready.headers["retry-after"]) == (503, "2")
            server.start()
            assert until(lambda: httpx.get(f"{api.url}/ready").status_code == 200, 30)
            assert until(lambda: check_shed(crowd(api, count=4)) == {200: 2, 201: 2})
        engine.dispose()


class Halted:
    """A submission whose body stops half way until it is told to `finish`."""

    _BODY = json.dumps({"team": "letters", "input": {}, "plan": PLAN}).encode()

    def __init__(self, api: LiveApi) -> None:
        self._connection = HTTPConnection(urlsplit(api.url).netloc, timeout=20)
        self._connection.putrequest("POST", "/v1/tasks")
        self._connection.putheader("Authorization", f"Bearer {api.key_of['admin']}")
        self._connection.putheader("Content-Type", "application/json")
        self._connection.putheader("Content-Length", str(len(self._BODY)))
        self._connection.endheaders(self._BODY[:20])

    def answered(self) -> bool:
        """Before the body was there: it was shed."""
        return bool(select.select([self._connection.sock], [], [], 0)[0])

    def finish(self) -> int:
        self._connection.send(self._BODY[20:])
        status = self._connection.getresponse().status
        self.close()
        return status

    def close(self) -> None:
        self._connection.close()


def test_too_many_requests_in_progress_are_shed_without_waiting(
    engine: Engine, database_url: str, redis_url: str
) -> None:
    """Held up by bodies that do not end; live streams and probes are not among them."""
    with crowded(engine, database_url, redis_url, 3, max_requests=2) as api, api.http() as client:
        halted = [Halted(api), Halted(api)]

        def shed() -> httpx.Response | None:
            """One of the two may itself have been shed, where it came together with a look."""
            for number, each in enumerate(halted):
                if each.answered():
                    each.close()
                    halted[number] = Halted(api)
            answer = client.get("/tasks")
            full = answer.status_code == 503 and not any(each.answered() for each in halted)
            return answer if full else None

        answer = until(shed)
        check_shed([answer])
        assert answer.json()["code"] == "overloaded"
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert client.get("/health").status_code == 200
        assert client.get("/ready").status_code == 200
        assert [each.finish() for each in halted] == [201, 201]
        assert until(lambda: client.get("/tasks").status_code == 200)


@pytest.fixture
def dead(api: LiveApi) -> dict[str, str]:
    """A dead letter and another task, made while there was room."""
    with api.http() as client:
        task = client.post("/tasks", json={"team": "letters", "plan": PLAN}).json()["id"]
        settle(api.engine, claim(api.engine, task, "a"), Bury(failure=Failure(code="agent.unable", text="no")))
        (letter,) = client.get("/dead-letters").json()["items"]
        other = client.post("/tasks", json={"team": "letters", "plan": PLAN}).json()["id"]
    return {"task": task, "letter": letter["id"], "open": other}


@pytest.mark.parametrize(
    ("part", "changed", "words", "held"),
    [
        ("disk", {"min_free_disk_bytes": 10**18}, "less than min_free_disk_bytes", False),
        ("backlog", {"max_ready_steps": 1}, "more than 1 steps are ready and have not begun", False),
        ("backlog", {"max_ready_steps": 1}, "more than 1 steps are ready and have not begun", True),
    ],
)
def test_without_room_new_work_is_refused_and_reads_and_ends_go_on(
    api: LiveApi,
    dead: dict[str, str],
    database_url: str,
    redis_url: str,
    part: str,
    changed: dict[str, int],
    words: str,
    held: bool,
) -> None:
    with api.http() as client:  # two ready steps: one more than the backlog may have
        assert client.post("/tasks", json={"team": "letters", "plan": PLAN}).status_code == 201
        if held:
            assert client.post("/teams/letters/pause", json={}).status_code == 200
            relay(api.engine, Sink(), republish_seconds=0, window=1000)
            assert [each["held"] for each in client.get("/pauses").json()["items"]] == [2]
    with running_api(api.engine, database_url, redis_url, **changed) as url:
        full = LiveApi(url, api.engine, api.key_of)
        with full.http() as client:
            refused = [
                client.post("/tasks", json={"team": "letters", "plan": PLAN}),
                client.post("/tasks", json=[{"team": "letters", "plan": PLAN}]),
                client.post("/dead-letters/redrive", json={"filter": {"reason": "agent"}}),
                client.post(f"/dead-letters/{dead['letter']}/redrive", json={}),
            ]
            assert check_shed(refused) == {503: 4}
            assert all(words in answer.json()["detail"] for answer in refused)
            assert {answer.headers["retry-after"] for answer in refused} == {"10"}
            for path in ("/tasks", f"/tasks/{dead['task']}/steps", f"/dead-letters/{dead['letter']}", "/queues"):
                assert client.get(path).status_code == 200
            ready = client.get("/ready")
            assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
            assert words in ready.json()[part]
            assert client.post(f"/tasks/{dead['open']}/cancel").status_code == 200
            assert client.post(f"/dead-letters/{dead['letter']}/notes", json={"text": "later"}).status_code == 200
            if part == "backlog":  # one is gone with the cancelled task: that is room enough
                assert until(lambda: client.post(f"/dead-letters/{dead['letter']}/redrive", json={}).is_success)
