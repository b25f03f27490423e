"""Whatever is sent, the answer is a 4xx problem that names field and remedy, and nothing is half-written."""

import json
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from .api_server import LiveApi

JSON = {"Content-Type": "application/json"}
UNKNOWN = "6b1f7d0e-3c52-4e0b-8a3a-9d2f6c1b7e45"


def nested(levels: int) -> bytes:
    return b'{"team":"letters","input":{"a":' + b"[" * levels + b"]" * levels + b"}}"


def task(**fields: Any) -> bytes:
    return json.dumps({"team": "letters", "plan": {"steps": [{"id": "a", "agent": "write"}]}, **fields}).encode()


def plan(*steps: dict[str, Any]) -> bytes:
    return task(plan={"steps": list(steps)})


BODIES: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 400, ""),
    "not json": (b"team=letters", 400, ""),
    "half of it": (b'{"team": "letters"', 400, ""),
    "two values": (b'{"team":"letters"}{}', 400, ""),
    "NaN": (b'{"team":"letters","input":{"a":NaN}}', 400, ""),
    "Infinity": (b'{"team":"letters","deadline_seconds":-Infinity}', 400, ""),
    "invalid utf-8": (b'{"team":"\xff\xfe"}', 400, ""),
    "utf-16": ('{"team":"letters"}'.encode("utf-16"), 400, ""),
    "utf-8 bom": (b'\xef\xbb\xbf{"team":"letters"}', 400, ""),
    "raw NUL": (b'{"team":"let\x00ters"}', 400, ""),
    "only NUL": (b"\x00" * 100, 400, ""),
    "escaped NUL": (task(goal="a\x00b"), 422, "goal"),
    "NUL in input": (task(input={"deep": [{"er": "\x00"}]}), 422, "input.deep.0.er"),
    "NUL in a key": (task(input={"a": {"\x00": 1}}), 422, "input.a"),
    "NUL in a label": (task(labels={"a\x00": "1"}), 422, "labels"),
    "half a surrogate": (b'{"team":"letters","goal":"\\ud800"}', 422, "goal"),
    "a bit too deep": (nested(31), 422, "input.a"),
    "very deep": (nested(90_000), 422, ""),
    "huge integer": (b'{"team":"letters","input":{"n":' + b"9" * 30 + b"}}", 422, "input.n"),
    "negative huge integer": (b'{"team":"letters","input":{"n":-' + b"9" * 30 + b"}}", 422, "input.n"),
    "integer of many digits": (b'{"team":"letters","input":{"n":' + b"9" * 5000 + b"}}", 422, "input.n"),
    "a key twice": (b'{"team":"letters","team":"letters"}', 422, "team"),
    "a key twice, deep": (b'{"team":"letters","input":{"a":[{"b":1,"c":2,"b":1}]}}', 422, "input.a.0.b"),
    "a key of half a surrogate twice": (b'{"team":"letters","\\ud800":1,"\\ud800":2}', 422, ""),
    "number of infinity": (b'{"team":"letters","input":{"n":1e999}}', 422, "input.n"),
    "huge deadline": (b'{"team":"letters","deadline_seconds":' + b"9" * 18 + b"}", 422, "deadline_seconds"),
    "negative deadline": (task(deadline_seconds=-1), 422, "deadline_seconds"),
    "deadline as text": (task(deadline_seconds="soon"), 422, "deadline_seconds"),
    "null": (b"null", 422, ""),
    "a number": (b"7", 422, ""),
    "text": (b'"letters"', 422, ""),
    "empty list": (b"[]", 422, ""),
    "long list": (b"[" + b",".join([b"{}"] * 1001) + b"]", 422, ""),
    "no team": (b"{}", 422, "team"),
    "team is null": (b'{"team":null}', 422, "team"),
    "team is empty": (b'{"team":""}', 422, "team"),
    "team is a list": (b'{"team":["letters"]}', 422, "team"),
    "unknown team": (b'{"team":"nobody"}', 422, "team"),
    "team of a long name": (b'{"team":"' + b"x" * 5000 + b'"}', 422, "team"),
    "unknown field": (task(colour="red"), 422, "colour"),
    "an id of one's own": (task(id=UNKNOWN), 422, "id"),
    "another tenant": (task(tenant="elsewhere"), 422, "tenant"),
    "budget": (task(budget={"cost_usd": 1}), 422, "budget"),
    "budget null": (task(budget=None), 422, "budget"),
    "goal is a number": (task(goal=7), 422, "goal"),
    "goal too long": (task(goal="x" * 100_001), 422, "goal"),
    "input is a list": (task(input=[1]), 422, "input"),
    "labels is a list": (task(labels=["a"]), 422, "labels"),
    "label is a number": (task(labels={"a": 1}), 422, "labels.a"),
    "too many labels": (task(labels={str(n): "" for n in range(51)}), 422, "labels"),
    "key is empty": (task(idempotency_key=""), 422, "idempotency_key"),
    "key too long": (task(idempotency_key="k" * 256), 422, "idempotency_key"),
    "key with a line break": (task(idempotency_key="a\nb"), 422, "idempotency_key"),
    "plan is a list": (task(plan=[]), 422, "plan"),
    "plan without steps": (task(plan={}), 422, "plan.steps"),
    "plan of no steps": (plan(), 422, "plan.steps"),
    "plan with an unknown agent": (plan({"id": "a", "agent": "nobody"}), 422, "plan.steps.0.agent"),
    "plan with a reviewer as agent": (plan({"id": "a", "agent": "judge"}), 422, "plan.steps.0.agent"),
    "plan with a cycle": (
        plan({"id": "a", "agent": "write", "needs": ["b"]}, {"id": "b", "agent": "write", "needs": ["a"]}), 422,
        "plan.steps",
    ),
    "plan that needs itself": (plan({"id": "a", "agent": "write", "needs": ["a"]}), 422, "plan.steps.0.needs"),
    "plan with an unknown need": (plan({"id": "a", "agent": "write", "needs": ["z"]}), 422, "plan.steps.0.needs"),
    "plan with one id twice": (plan(*[{"id": "a", "agent": "write"}] * 2), 422, "plan.steps.1.id"),
    "plan with a strange id": (plan({"id": "../a", "agent": "write"}), 422, "plan.steps.0.id"),
    "plan with an unknown field": (plan({"id": "a", "agent": "write", "role": "x"}), 422, "plan.steps.0.role"),
    "plan that is too deep": (
        plan(*[{"id": f"s{n}", "agent": "write", "needs": [f"s{n - 1}"] if n else []} for n in range(101)]), 422,
        "plan.steps",
    ),
}  # fmt: skip


def check(answer: httpx.Response, status: int, field: str | None = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["type"].startswith("urn:orchestrator:problem:")
    assert problem["title"]
    assert problem["code"]
    assert len(problem["detail"]) > 10
    assert len(answer.content) < 10_000
    assert not any(word in answer.text for word in ("Traceback", "psycopg", "pydantic", "sqlalchemy", ".py"))
    if field is not None:
        assert problem.get("field", "") == field, problem
    return problem


def tasks_of(client: httpx.Client) -> list[Any]:
    return list(client.get("/tasks").json()["items"])


@pytest.fixture(scope="module")
def every_body() -> dict[str, tuple[bytes, int, str]]:
    return BODIES


def test_every_bad_body_is_refused_and_writes_nothing(api: LiveApi) -> None:
    with api.http() as client:
        for name, (body, status, field) in BODIES.items():
            answer = client.post("/tasks", content=body, headers=JSON)
            try:
                check(answer, status, field)
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from error
        assert tasks_of(client) == []
        assert client.post("/tasks", content=task(), headers=JSON).status_code == 201


def test_what_is_just_inside_the_limits_is_accepted(api: LiveApi) -> None:
    with api.http() as client:
        for body in (nested(30), task(input={"n": 2**63 - 1}), task(goal="x" * 100_000), task(goal="Grüße 😀")):
            assert client.post("/tasks", content=body, headers=JSON).status_code == 201


def test_several_wrong_fields_are_all_named(api: LiveApi) -> None:
    with api.http() as client:
        problem = check(client.post("/tasks", content=b'{"goal":1,"x":2}', headers=JSON), 422)
        assert {error["field"] for error in problem["errors"]} == {"team", "goal", "x"}


def test_the_limit_of_a_body_holds_whether_it_is_announced_or_not(api: LiveApi) -> None:
    big = task(input={"text": "x" * 300_000})
    with api.http() as client:
        check(client.post("/tasks", content=big, headers=JSON), 413)
        chunks = (big[start : start + 10_000] for start in range(0, len(big), 10_000))
        check(client.post("/tasks", content=chunks, headers=JSON), 413)
        assert tasks_of(client) == []


def test_an_endless_body_is_cut_off(api: LiveApi) -> None:
    host = urlsplit(api.url)
    request = (
        f"POST /v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
        f"Authorization: Bearer {api.key_of['admin']}\r\n\r\n"
    )
    with socket.create_connection((host.hostname or "", host.port or 0), timeout=20) as connection:
        connection.sendall(request.encode())
        sent = 0
        try:
            while sent < 200_000_000:
                connection.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                sent += 0x10000
        except OSError:
            pass
        assert sent < 200_000_000
    with api.http() as client:
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": ""},
        {"Content-Type": "application/json; charset=utf-16"},
        {**JSON, "Content-Encoding": "gzip"},
    ],
)
def test_other_media_types_are_refused(api: LiveApi, headers: dict[str, str]) -> None:
    with api.http() as client:
        check(client.post("/tasks", content=task(), headers=headers), 415)


@pytest.mark.parametrize("key", [b"", b"k" * 256, b"a b", b"\xff\xfe", "schlüssel".encode()])
def test_a_bad_idempotency_key_is_refused(api: LiveApi, key: bytes) -> None:
    with api.http() as client:
        headers = [(b"Content-Type", b"application/json"), (b"Idempotency-Key", key)]
        check(client.post("/tasks", content=task(), headers=headers), 422, "idempotency_key")
        assert tasks_of(client) == []


def test_contradicting_idempotency_keys_are_refused(api: LiveApi) -> None:
    with api.http() as client:
        twice = [("Content-Type", "application/json"), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
        check(client.post("/tasks", content=task(), headers=twice), 400)
        both = {**JSON, "Idempotency-Key": "a"}
        check(client.post("/tasks", content=task(idempotency_key="b"), headers=both), 422, "idempotency_key")
        check(client.post("/tasks", content=b"[" + task() + b"]", headers=both), 422, "idempotency_key")
        assert tasks_of(client) == []


BAD_IDS = [UNKNOWN, "1", "x" * 3000, "%00", "..%2f..", "' or 1=1 --", "{" + UNKNOWN + "}", "urn:uuid:" + UNKNOWN, "💥"]
PATHS = ["/tasks/{}", "/tasks/{}/steps", "/tasks/{}/events", "/tasks/{}/result", "/steps/{}", "/dead-letters/{}",
         "/questions/{}", "/artifacts/{}", "/teams/{}"]  # fmt: skip
POSTS: dict[str, Any] = {
    "/tasks/{}/cancel": None,
    "/dead-letters/{}/redrive": {},
    "/dead-letters/{}/discard": {"reason": "x"},
    "/questions/{}/answer": {"text": "x"},
}


def test_unknown_ids_are_404_whatever_they_look_like(api: LiveApi) -> None:
    with api.http() as client:
        for bad in BAD_IDS:
            for path in PATHS:
                check(client.get(path.format(bad)), 404)
            for path, body in POSTS.items():
                check(client.post(path.format(bad), json=body), 404)
            stream = client.get(f"/tasks/{bad}/events", headers={"Accept": "text/event-stream"})
            check(stream, 404)


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/tasks?limit=0", "limit"),
        ("/tasks?limit=201", "limit"),
        ("/tasks?limit=-1", "limit"),
        ("/tasks?limit=many", "limit"),
        (f"/tasks?limit={'9' * 5000}", "limit"),
        ("/tasks?cursor=nonsense", "cursor"),
        ("/tasks?cursor=%00", "cursor"),
        (f"/tasks?cursor={'x' * 600}", "cursor"),
        ("/tasks?state=sleeping", "state.0"),
        ("/tasks?colour=red", "colour"),
        ("/tasks?label=no-value", "label"),
        ("/tasks?team=%00", "team"),
        (f"/tasks/{UNKNOWN}/steps?cursor=bm9uc2Vuc2U=", "cursor"),
        (f"/tasks/{UNKNOWN}/steps?cursor=WzEsIlx1MDAwMCJd", "cursor"),
        (f"/tasks/{UNKNOWN}/steps?cursor=WzFlOTksICJhIl0=", "cursor"),
        (f"/tasks/{UNKNOWN}/events?cursor=1", "cursor"),
        (f"/tasks/{UNKNOWN}/events?cursor=-1--1", "cursor"),
        (f"/tasks/{UNKNOWN}/events?cursor={'9' * 30}-1", "cursor"),
        ("/dead-letters?state=lost", "state"),
        ("/dead-letters?task=1", "task"),
        ("/questions?state=lost", "state"),
        ("/teams?limit=0", "limit"),
        ("/teams/letters?digest=x", "digest"),
    ],
)
def test_a_bad_query_is_refused(api: LiveApi, path: str, field: str) -> None:
    with api.http() as client:
        check(client.get(path), 422, field)


@pytest.mark.parametrize("last", ["x", "1-x", "9" * 40 + "-1", "-"])
def test_a_bad_last_event_id_is_refused(api: LiveApi, last: str) -> None:
    with api.http() as client:
        created = client.post("/tasks", content=task(), headers=JSON).json()["id"]
        headers = {"Accept": "text/event-stream", "Last-Event-ID": last}
        check(client.get(f"/tasks/{created}/events", headers=headers), 422, "cursor")


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (f"/dead-letters/{UNKNOWN}/redrive", {"edit": 1}, "edit"),
        (f"/dead-letters/{UNKNOWN}/redrive", {"edti": {}}, "edti"),
        (f"/dead-letters/{UNKNOWN}/discard", {}, "reason"),
        (f"/dead-letters/{UNKNOWN}/discard", {"reason": ""}, "reason"),
        (f"/dead-letters/{UNKNOWN}/discard", {"reason": "\x00"}, "reason"),
        (f"/questions/{UNKNOWN}/answer", {"text": 1}, "text"),
        (f"/questions/{UNKNOWN}/answer", {"text": "\x00"}, "text"),
        ("/dead-letters/redrive", {}, "filter"),
        ("/dead-letters/redrive", {"filter": {}}, "filter"),
        ("/dead-letters/redrive", {"filter": {"reason": None}}, "filter"),
        ("/dead-letters/redrive", {"filter": {"ids": []}}, "filter.ids"),
        ("/dead-letters/redrive", {"filter": {"ids": ["1"]}}, "filter.ids.0"),
        ("/dead-letters/redrive", {"filter": {"tenant": "elsewhere"}}, "filter.tenant"),
    ],
)
def test_bad_decisions_are_refused(api: LiveApi, path: str, body: Any, field: str) -> None:
    with api.http() as client:
        check(client.post(path, json=body), 422, field)


def test_wrong_methods_and_addresses_are_problems_too(api: LiveApi) -> None:
    with api.http() as client:
        for method, path in [("DELETE", "/tasks"), ("PUT", f"/tasks/{UNKNOWN}"), ("GET", f"/tasks/{UNKNOWN}/cancel")]:
            answer = client.request(method, path)
            check(answer, 405)
            assert answer.headers["allow"]
        for path in ("/", "/nothing", "/tasks/", "/../etc/passwd", "//tasks"):
            check(client.get(path), 404)
        assert httpx.get(f"{api.url}/").status_code == 404


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Basic b3JrOg==",
        "Bearer ork_00000000_" + "a" * 43,
        "Bearer \xff",
        "Bearer " + "x" * 20_000,
    ],
)
def test_without_a_good_key_nothing_is_said(api: LiveApi, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    for path in ("/tasks", f"/tasks/{UNKNOWN}", "/workers", "/queues", "/teams", "/dead-letters", "/questions"):
        answer = httpx.get(f"{api.url}/v1{path}", headers=headers)
        check(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
    check(httpx.post(f"{api.url}/v1/tasks", headers=headers, content=b"\x00" * 500_000), 401)


def test_random_bytes_never_make_a_5xx(api: LiveApi) -> None:
    seed = bytes(range(256))
    pieces = [seed[n:] + seed[:n] for n in range(0, 256, 16)] + [task()[:n] for n in range(1, 60, 7)]
    with api.http() as client:
        for piece in pieces:
            check(client.post("/tasks", content=piece, headers=JSON), 400)


def test_a_moment_may_have_any_offset_that_rfc_3339_allows(api: LiveApi) -> None:
    """Postgres itself refuses offsets of sixteen hours and more."""
    with api.http() as client:
        for offset in ("+16:02", "-23:59", "+00:00", "Z"):
            moment = f"2614-04-01T00:01:05.889020{offset}"
            assert client.get("/dead-letters", params={"since": moment}).status_code == 200, offset
            filters = {"reason": "agent", "until": moment}
            answer = client.post("/dead-letters/redrive", json={"filter": filters, "dry_run": True})
            assert answer.status_code == 200, answer.text
