"""Every route with another tenant's ids: nothing found, nothing told, nothing moved. The routes come from the
application, so that a new one cannot be forgotten."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

from contracts.errors import Failure
from contracts.settlements import Ask, Bury
from contracts.teams import Agent, Team
from shared_state import dead_letters
from shared_state.artifacts import ArtifactStore
from shared_state.broker.quarantine import describe
from shared_state.engine import transaction
from shared_state.model_calls import Call, Journal, Past
from shared_state.statements import query

from .api_server import LiveApi, apply_team, claim, settle

PLAN = {"steps": [{"id": "a", "agent": "write"}, {"id": "b", "agent": "write", "needs": ["a"]}]}
OWNERS = Team(name="owners-team", agents={"owners-writer": Agent(call="letters:write", concurrency=3)})
SECRET = "the owner's own words"
OPEN = {"/v1/health", "/v1/ready"}
"""Routes that need no key and say nothing of anybody."""
SHARED = {"/v1/workers", "/v1/queues", "/v1/dead-letters/codes", "/v1/teams", "/v1/overview"}
"""Routes that show the installation, and teams of the stranger's own: nothing of the owner's may be in them."""
LISTINGS = {
    "/v1/limits", "/v1/pauses", "/v1/tasks", "/v1/questions", "/v1/dead-letters", "/v1/dead-letters/counts",
    "/v1/dead-letters/export",
}  # fmt: skip
BODIES: Mapping[str, Any] = {
    "/v1/tasks/{task_id}/cancel": None,
    "/v1/tasks/{task_id}/fork": {"from": "a"},
    "/v1/tasks/{task_id}/pause": {},
    "/v1/tasks/{task_id}/resume": None,
    "/v1/teams/{name}/pause": {},
    "/v1/teams/{name}/resume": None,
    "/v1/teams/{name}/agents/{agent}/pause": {},
    "/v1/teams/{name}/agents/{agent}/resume": None,
    "/v1/workers/{name}/drain": None,
    "/v1/questions/{question_id}/answer": {"text": "mine"},
    "/v1/dead-letters/redrive": {"filter": {"reason": "agent.unable"}},
    "/v1/dead-letters/{letter_id}/redrive": {"edit": {"n": 2}},
    "/v1/dead-letters/{letter_id}/edit": {"input": {"n": 2}},
    "/v1/dead-letters/{letter_id}/discard": {"reason": "mine"},
    "/v1/dead-letters/{letter_id}/notes": {"text": "mine"},
}


CALL = Call(
    ordinal=1,
    conversation="x",
    model="openai-chat:x",
    settings={},
    past=Past(ending="answered", answered=True, told=False, tool_calls=0, input_tokens=1, output_tokens=1),
    kept=True,
    seconds=1.0,
    request=json.dumps({"messages": [SECRET]}).encode(),
    response=json.dumps({"parts": [SECRET]}).encode(),
)


@pytest.fixture
def owned(api: LiveApi) -> dict[str, str]:
    """One of everything, of tenant `default`, by the names of path parameters."""
    with api.http() as owner:
        body = {"team": "letters", "plan": PLAN, "goal": SECRET, "labels": {"x": SECRET}}
        task = owner.post("/tasks", json=body).json()["id"]
        dead = claim(api.engine, task, "a")
        Journal(api.engine, ArtifactStore(api.engine, "default", None), dead).write(CALL)
        settle(api.engine, dead, Bury(failure=Failure(code="agent.unable", text=SECRET)))
        (letter,) = owner.get("/dead-letters").json()["items"]
        asking = owner.post("/tasks", json=body).json()["id"]
        settle(api.engine, claim(api.engine, asking, "a"), Ask(text=SECRET))
        (question,) = owner.get("/questions").json()["items"]
    apply_team(api.engine, OWNERS)
    dead_letters.record_raw(api.engine, [describe("execute", "message.envelope", SECRET, SECRET.encode())])
    return {
        "task_id": task,
        "step_id": str(dead.step_id),
        "letter_id": letter["id"],
        "question_id": question["id"],
        "sha256": ArtifactStore(api.engine, "default", None).put(SECRET.encode()).sha256,
        "name": OWNERS.name,
        "epoch": str(dead.epoch),
        "ordinal": str(CALL.ordinal),
        "agent": "owners-writer",
    }


@pytest.fixture
def stranger(api: LiveApi) -> Iterator[httpx.Client]:
    with api.http("foreign") as client:
        client.base_url = httpx.URL(api.url)
        yield client


def routes(api: LiveApi) -> list[tuple[str, str]]:
    """Method and path of all there are."""
    document = httpx.get(f"{api.url}/openapi.json").json()
    return [(method.upper(), path) for path, operations in document["paths"].items() for method in operations]


def rows(engine: Engine) -> dict[str, str]:
    """Everything in the database that is the owner's."""
    with transaction(engine) as connection:
        tables = query(
            connection,
            """select table_name from information_schema.columns
            where table_schema = 'public' and column_name = 'tenant_id' order by 1""",
        )
        found = {}
        for table in (row["table_name"] for row in tables):
            sql = f"select to_jsonb(t)::text as row from {table} t where tenant_id = 'default' order by 1"
            found[table] = json.dumps([row["row"] for row in query(connection, sql)])
        return found


def test_every_route_is_a_wall_between_tenants(api: LiveApi, owned: dict[str, str], stranger: httpx.Client) -> None:
    before = rows(api.engine)
    assert len(before) > 12
    walked = 0
    for method, path in routes(api):
        if path in OPEN:
            continue
        names = re.findall(r"{(\w+)}", path)
        assert set(names) <= set(owned), f"{method} {path}: add one of the owner's to `owned`"
        body = {}
        if (method, path) == ("POST", "/v1/tasks"):
            continue  # a stranger may submit tasks of its own
        if method != "GET":
            assert path in BODIES, f"{method} {path}: add a body that would do harm to BODIES"
            body = {"json": BODIES[path]}
        answer = stranger.request(method, path.format(**owned), **body)
        walked += 1
        assert SECRET not in answer.text, (method, path)
        if names:
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), (method, path, answer.text)
        elif path in LISTINGS and method == "GET":
            assert answer.status_code == 200
            assert answer.text in ("", '{"items":[],"next_cursor":null}'), (path, answer.text)
        elif method == "GET":
            assert path in SHARED, f"{method} {path}: say in this test what a stranger may see of it"
            assert not [each for each in owned.values() if len(each) > 1 and each in answer.text], path
    assert walked >= 25
    assert rows(api.engine) == before


def test_ids_of_another_tenant_in_bodies_and_queries_name_nothing(
    api: LiveApi, owned: dict[str, str], stranger: httpx.Client
) -> None:
    """Also when the stranger has a team and dead letters of its own."""
    own = stranger.post("/v1/tasks", json={"team": "letters", "plan": PLAN}).json()["id"]
    settle(api.engine, claim(api.engine, own, "a"), Bury(failure=Failure(code="agent.unable", text="my own")))
    (mine,) = stranger.get("/v1/dead-letters").json()["items"]
    before = rows(api.engine)
    for filters in ({"ids": [owned["letter_id"]]}, {"task": owned["task_id"]}, {"text": SECRET}):
        done = stranger.post("/v1/dead-letters/redrive", json={"filter": filters}).json()
        assert (done["redriven"], done["unchanged"]) == ([], [])
    for path, name in (("/v1/dead-letters", "task"), ("/v1/questions", "task"), ("/v1/dead-letters/counts", "task")):
        assert stranger.get(path, params={name: owned["task_id"]}).json()["items"] == []
    done = stranger.post("/v1/dead-letters/redrive", json={"filter": {"reason": "agent"}}).json()
    assert (done["redriven"], done["refused"]) == ([mine["id"]], [])
    for cursor in (owned["task_id"], owned["letter_id"]):
        assert SECRET not in stranger.get("/v1/tasks", params={"cursor": cursor}).text
        assert SECRET not in stranger.get("/v1/dead-letters", params={"cursor": cursor}).text
    assert rows(api.engine) == before


def test_a_key_of_idempotency_is_the_tenants_own(api: LiveApi, stranger: httpx.Client) -> None:
    headers = {"Idempotency-Key": "the-same"}
    with api.http() as owner:
        made = owner.post("/tasks", json={"team": "letters", "plan": PLAN}, headers=headers)
        assert made.status_code == 201, made.text
        first = made.json()["id"]
    second = stranger.post("/v1/tasks", json={"team": "letters", "plan": PLAN}, headers=headers)
    assert second.status_code == 201
    assert second.json()["id"] != first
    assert "idempotent-replayed" not in second.headers


def test_every_path_parameter_of_the_routers_is_walked(api: LiveApi) -> None:
    """The routes come from the document: whatever a router hides from it is not walked, so nothing may be hidden."""
    hidden = re.compile(r"include_in_schema=False")
    folder = Path(__file__).parent.parent.parent / "orchestrator" / "api"
    found = {path.name for path in folder.glob("*.py") if hidden.search(path.read_text())}
    # The probes, a second time, without /v1; and /metrics, which no tenant's key opens.
    assert found == {"application.py", "installation.py"}
