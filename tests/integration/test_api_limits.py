"""The API's limits: each is a setting, and what is over it is refused with the field and the remedy."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

from .api_server import apply_team, finish, make_keys, running_api, until

LIMITS: dict[str, Any] = {
    "max_body_bytes": 20_000,
    "max_json_depth": 12,
    "max_string_length": 1000,
    "max_page_size": 300,
    "max_plan_steps": 3,
    "max_open_tasks": 5,
}


@pytest.fixture
def client(engine: Engine, database_url: str, redis_url: str) -> Iterator[httpx.Client]:
    apply_team(engine)
    key = make_keys(engine)["admin"]
    with (
        running_api(engine, database_url, redis_url, **LIMITS) as url,
        httpx.Client(base_url=f"{url}/v1", headers={"Authorization": f"Bearer {key}"}, timeout=20) as client,
    ):
        yield client


def task(**given: Any) -> dict[str, Any]:
    return {"team": "letters", "plan": {"steps": [{"id": "a", "agent": "write"}]}, **given}


def nested(depth: int) -> Any:
    return json.loads('{"a":' * depth + "1" + "}" * depth)


def check_refusal(answer: httpx.Response, status: int, field: str | None, *words: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem.get("field") == field
    for word in words:
        assert word in problem["detail"], problem


def test_a_body_has_so_many_bytes(client: httpx.Client) -> None:
    largest = json.dumps(task(input={f"n{n}": "x" * 900 for n in range(21)}))
    body = largest + " " * (20_000 - len(largest))
    headers = {"Content-Type": "application/json"}
    assert client.post("/tasks", content=body, headers=headers).status_code == 201
    answer = client.post("/tasks", content=body + " ", headers=headers)
    check_refusal(answer, 413, None, "20000 bytes", "max_body_bytes")


def test_a_body_is_so_deep(client: httpx.Client) -> None:
    assert client.post("/tasks", json=task(input=nested(11))).status_code == 201
    answer = client.post("/tasks", json=task(input=nested(12)))
    check_refusal(answer, 422, "input.a", "12 levels", "max_json_depth", "flatten it")
    listed = client.post("/tasks", json=[task(input=nested(12))]).json()["items"][0]["problem"]
    assert listed["field"] == "0.input"


def test_a_text_is_so_long(client: httpx.Client) -> None:
    assert client.post("/tasks", json=task(goal="ä" * 1000)).status_code == 201
    answer = client.post("/tasks", json=task(input={"a": ["x" * 1001]}))
    check_refusal(answer, 422, "input.a.0", "1000 characters", "max_string_length", "not 1001")
    check_refusal(client.post("/tasks", json=task(input={"x" * 1001: 1})), 422, "input", "max_string_length")


def test_a_page_has_so_many_items(client: httpx.Client) -> None:
    for path in ("/tasks", "/dead-letters", "/questions", "/teams"):
        assert client.get(path, params={"limit": 300}).status_code == 200
        check_refusal(client.get(path, params={"limit": 301}), 422, "limit", "300", "max_page_size", "next_cursor")
    document = httpx.get(str(client.base_url).replace("/v1/", "/openapi.json")).json()
    (limit,) = [each for each in document["paths"]["/v1/tasks"]["get"]["parameters"] if each["name"] == "limit"]
    assert limit["schema"]["maximum"] == 300


def test_a_plan_has_so_many_steps(client: httpx.Client) -> None:
    steps = [{"id": f"s{n}", "agent": "write"} for n in range(4)]
    assert client.post("/tasks", json=task(plan={"steps": steps[:3]})).status_code == 201
    answer = client.post("/tasks", json=task(plan={"steps": steps}))
    check_refusal(answer, 422, "plan.steps", "4 steps", "max_plan_steps", "several tasks")


def test_a_tenant_has_so_many_tasks_open(client: httpx.Client, engine: Engine) -> None:
    """Singly, in lists, and until one has ended: seen within about a second."""
    made = [client.post("/tasks", json=task()).json()["id"] for _ in range(3)]
    answer = client.post("/tasks", json=[task()] * 3)
    check_refusal(answer, 429, None, "3 tasks are open, and 3 more", "max_open_tasks", "when some have ended")
    assert answer.json()["code"] == "quota_reached"
    assert int(answer.headers["retry-after"]) >= 1
    assert client.post("/tasks", json=[task()] * 2).status_code == 200
    check_refusal(client.post("/tasks", json=task()), 429, None, "5 tasks are open")
    finish(engine, made[0], "a")
    assert until(lambda: client.post("/tasks", json=task()).status_code == 201)
    check_refusal(client.post("/tasks", json=task()), 429, None, "5 tasks are open")
    assert client.get("/tasks").status_code == 200


def test_the_quota_is_each_tenants_own(engine: Engine, database_url: str, redis_url: str) -> None:
    """And holds over several processes: what the others admit is seen with the next sample."""
    keys = make_keys(engine)
    for tenant in ("default", "elsewhere"):
        apply_team(engine, tenant=tenant)
    with (
        running_api(engine, database_url, redis_url, max_open_tasks=2) as one,
        running_api(engine, database_url, redis_url, max_open_tasks=2) as other,
    ):

        def submit(url: str, role: str) -> int:
            headers = {"Authorization": f"Bearer {keys[role]}"}
            return httpx.post(f"{url}/v1/tasks", json=task(), headers=headers).status_code

        assert [submit(one, "admin"), submit(one, "admin"), submit(one, "admin")] == [201, 201, 429]
        assert submit(other, "admin") == 429
        assert [submit(other, "foreign"), submit(one, "foreign"), submit(one, "foreign")] == [201, 201, 429]
