"""The HTTP API on real servers: what it does for those who use it well."""

import json
import threading
from base64 import b64decode
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

from contracts.errors import Failure
from contracts.plans import Plan, Step
from contracts.settlements import AcceptPlan, Ask, Bury, Propose
from shared_state import dead_letters
from shared_state.artifacts import ArtifactStore
from shared_state.attempts import Record
from shared_state.broker.quarantine import BadMessage
from shared_state.engine import transaction
from shared_state.statements import query
from shared_state.tasks import ROOT_KEY

from .api_server import ROLES, LiveApi, apply_team, claim, finish, make_keys, running_api, settle, until

PLAN = {"steps": [{"id": "a", "agent": "write"}, {"id": "b", "agent": "write", "needs": ["a"]}]}


def submit(client: httpx.Client, **body: Any) -> str:
    answer = client.post("/tasks", json={"team": "letters", "plan": PLAN, **body})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def buried(api: LiveApi, client: httpx.Client) -> tuple[str, str, str]:
    """A task whose first step is dead: task, step and dead letter."""
    task = submit(client)
    dead = claim(api.engine, task, "a")
    failure = Failure(code="gate.rejected", text="no good", detail="Traceback of ours")
    settle(api.engine, dead, Bury(failure=failure), Record(log_tail="the log", seconds=0.5))
    (letter,) = client.get("/dead-letters", params={"task": task}).json()["items"]
    return task, str(dead.step_id), letter["id"]


def redriven(done: list[str], unchanged: list[str] | None = None) -> dict[str, Any]:
    return {"redriven": done, "unchanged": unchanged or [], "refused": [], "dry_run": False, "seconds": 0.0}


def test_a_task_goes_from_submit_to_its_result(api: LiveApi) -> None:
    with api.http() as client:
        answer = client.post("/tasks", json={"team": "letters", "goal": "Write.", "plan": PLAN, "labels": {"x": "1"}})
        assert answer.status_code == 201
        task = answer.json()
        assert answer.headers["location"] == f"/v1/tasks/{task['id']}"
        assert task["step_counts"] == {"ready": 1, "blocked": 1}
        assert (task["state"], task["team"], task["degraded"], task["finished_at"]) == (
            "running",
            "letters",
            False,
            None,
        )
        assert task["usage"] == {"model_calls": 0, "input_tokens": 0, "output_tokens": 0, "cost_usd": None}
        early = client.get(f"/tasks/{task['id']}/result")
        assert (early.status_code, early.json()["code"]) == (409, "conflict")

        finish(api.engine, task["id"], "a", {"n": 1})
        step = finish(api.engine, task["id"], "b", {"n": 2})

        done = client.get(f"/tasks/{task['id']}").json()
        assert (done["state"], done["step_counts"], done["input"]) == ("succeeded", {"succeeded": 2}, {})
        result = client.get(f"/tasks/{task['id']}/result").json()
        assert (result["outputs"], result["missing"], result["state"]) == ({"b": {"n": 2}}, {}, "succeeded")
        detail = client.get(f"/steps/{step}").json()
        assert (detail["needs"], detail["output"], detail["message"]) == (["a"], {"n": 2}, None)
        assert [attempt["state"] for attempt in detail["attempts"]] == ["succeeded"]
        assert {event["type"] for event in detail["events"]} >= {"step.started", "step.succeeded"}


def test_a_planned_task_hides_the_planners_step_from_the_result(api: LiveApi) -> None:
    with api.http() as client:
        task = client.post("/tasks", json={"team": "letters"}).json()["id"]
        plan = Plan(steps=(Step(id="one", agent="write"),))
        settle(api.engine, claim(api.engine, task, ROOT_KEY), AcceptPlan(plan=plan))
        finish(api.engine, task, "one", "text")
        assert client.get(f"/tasks/{task}/result").json()["outputs"] == {"one": "text"}


def test_a_step_with_a_degraded_or_reviewed_output_shows_it(api: LiveApi) -> None:
    with api.http() as client:
        task = submit(client, plan={"steps": [{"id": "a", "agent": "checked"}]})
        taken = claim(api.engine, task, "a")
        settle(api.engine, taken, Propose(output={"draft": 1}, degraded="half of it"))
        step = client.get(f"/steps/{taken.step_id}").json()
        assert (step["state"], step["reviewer"], step["output"]) == ("reviewing", "judge", None)
        assert [(each["state"], each["body"], each["degraded"]) for each in step["proposals"]] == [
            ("pending", {"draft": 1}, "half of it")
        ]
        assert step["message"]["kind"] == "review"


def test_a_list_is_answered_item_by_item(api: LiveApi) -> None:
    good = {"team": "letters", "plan": PLAN, "idempotency_key": "k1"}
    bad = [{"team": "nobody"}, {"team": "letters", "budget": {}}, 7, {"team": "letters", "goal": "\x00"}]
    with api.http() as client:
        answer = client.post("/tasks", json=[good, *bad, {"team": "letters"}, good])
        assert answer.status_code == 200
        items = answer.json()["items"]
        assert [item.get("problem", {}).get("field") for item in items] == [
            None, "1.team", "2.budget", "3", "4.goal", None, None,
        ]  # fmt: skip
        assert items[3]["problem"]["code"] == "invalid"
        assert (items[0]["id"], items[6]["replayed"]) == (items[6]["id"], True)
        assert len(client.get("/tasks").json()["items"]) == 2


def test_a_malformed_item_of_a_list_gets_its_own_problem_and_stops_no_other(api: LiveApi) -> None:
    good = {"team": "letters", "plan": PLAN}
    items = [
        json.dumps(good),
        "[]",
        json.dumps({**good, "colour": "red", "size": 3}),
        '{"team": "letters", "goal": "one", "goal": "two"}',
        '{"team": "letters", "input": {"n": ' + "9" * 5000 + "}}",
        json.dumps({**good, "plan": {"steps": [{"id": "a", "agent": "nobody"}]}}),
        json.dumps({**good, "input": {"deep": json.loads("[" * 40 + "]" * 40)}}),
        json.dumps({**good, "idempotency_key": "two words"}),
        json.dumps(good),
    ]
    with api.http() as client:
        answer = client.post("/tasks", content=f"[{','.join(items)}]", headers={"Content-Type": "application/json"})
        assert answer.status_code == 200
        problems = [item.get("problem") for item in answer.json()["items"]]
        assert [problem and problem.get("field") for problem in problems] == [
            None, "1", "2.colour", "3.goal", "4.input.n", "5.plan.steps.0.agent", "6.input", "7.idempotency_key", None,
        ]  # fmt: skip
        assert {error["field"] for error in problems[2]["errors"]} == {"2.colour", "2.size"}
        assert {problem["status"] for problem in problems if problem} == {422}
        assert len(client.get("/tasks").json()["items"]) == 2
        many = client.post("/tasks", json=[good] * 1001)
        assert many.status_code == 422
        assert "1000" in many.json()["detail"]
        assert len(client.get("/tasks").json()["items"]) == 2


def test_the_same_key_and_body_is_the_same_task(api: LiveApi) -> None:
    headers = {"Idempotency-Key": "once"}
    body = {"team": "letters", "plan": PLAN}
    with api.http() as client:
        first = client.post("/tasks", json=body, headers=headers)
        again = client.post("/tasks", json=body, headers=headers)
        assert (first.status_code, again.status_code) == (201, 201)
        assert first.json() == again.json()
        assert again.headers["idempotent-replayed"] == "true"
        other = client.post("/tasks", json={**body, "goal": "another"}, headers=headers)
        assert (other.status_code, other.json()["field"]) == (422, "idempotency_key")
        assert len(client.get("/tasks").json()["items"]) == 1


def test_pages_hold_everything_once_in_order(api: LiveApi) -> None:
    with api.http() as client:
        tasks = [submit(client, labels={"n": str(number % 2)}) for number in range(5)]
        seen, cursor = [], None
        while True:
            page = client.get("/tasks", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
            seen += [task["id"] for task in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert seen == sorted(tasks, reverse=True)
        odd = client.get("/tasks", params={"label": "n=1", "state": "running", "team": "letters"}).json()["items"]
        assert {task["id"] for task in odd} == set(tasks[1::2])
        assert client.get("/tasks", params={"state": ["failed", "succeeded"]}).json()["items"] == []

        steps = {"steps": [{"id": f"s{number}", "agent": "write"} for number in range(7)]}
        wide = submit(client, plan=steps)
        first = client.get(f"/tasks/{wide}/steps", params={"limit": 4}).json()
        rest = client.get(f"/tasks/{wide}/steps", params={"limit": 4, "cursor": first["next_cursor"]}).json()
        assert [step["key"] for step in first["items"] + rest["items"]] == [f"s{number}" for number in range(7)]
        assert rest["next_cursor"] is None


def test_cancel_stops_a_task_and_twice_is_fine(api: LiveApi) -> None:
    with api.http() as client:
        task = submit(client)
        assert client.post(f"/tasks/{task}/cancel").json()["state"] == "cancelled"
        assert client.post(f"/tasks/{task}/cancel").status_code == 200
        done = submit(client)
        finish(api.engine, done, "a")
        finish(api.engine, done, "b")
        assert client.post(f"/tasks/{done}/cancel").status_code == 409


def test_a_dead_letter_is_read_redriven_and_a_second_click_changes_nothing(api: LiveApi) -> None:
    with api.http() as client:
        task, step, letter = buried(api, client)
        shown = client.get(f"/dead-letters/{letter}").json()
        assert (shown["reason"], shown["step_key"], shown["team"], shown["state"]) == (
            "gate.rejected", "a", "letters", "open",
        )  # fmt: skip
        assert shown["remedy"]
        assert client.get(f"/tasks/{task}").json()["error"]["code"] == "gate.rejected"
        edited = client.post(f"/dead-letters/{letter}/redrive", json={"edit": {"better": True}})
        assert edited.json() == redriven([letter])
        again = client.post(f"/dead-letters/{letter}/redrive", json={})
        assert again.json() == redriven([], [letter])
        assert client.get(f"/steps/{step}").json()["input"] == {"better": True}
        assert client.get(f"/tasks/{task}").json()["state"] == "running"


def test_many_dead_letters_are_redriven_by_filter(api: LiveApi) -> None:
    with api.http() as client:
        _, _, first = buried(api, client)
        _, _, second = buried(api, client)
        raw = BadMessage(reason="message.envelope", text="?", queue="plan", raw=b"?", size_bytes=1, sha256="0" * 64, headers={})  # fmt: skip  # noqa: E501
        dead_letters.record_raw(api.engine, [raw])
        nothing = client.post("/dead-letters/redrive", json={"filter": {"reason": "lease"}}).json()
        assert nothing == redriven([])
        done = client.post("/dead-letters/redrive", json={"filter": {"reason": "gate", "team": "letters"}}).json()
        assert sorted(done["redriven"]) == sorted([first, second])
        again = client.post("/dead-letters/redrive", json={"filter": {"ids": [first]}}).json()
        assert again == redriven([], [first])


def test_a_dead_letter_is_discarded_with_a_reason(api: LiveApi) -> None:
    with api.http() as client:
        _, step, letter = buried(api, client)
        closed = client.post(f"/dead-letters/{letter}/discard", json={"reason": "not worth it"})
        assert (closed.status_code, closed.json()["state"]) == (200, "discarded")
        assert (closed.json()["close_reason"], closed.json()["closed_by"]) == ("not worth it", "the admin")
        assert client.get(f"/steps/{step}").json()["state"] == "failed"
        assert client.post(f"/dead-letters/{letter}/discard", json={"reason": "again"}).status_code == 409


def test_undecodable_bytes_are_shown_as_base64_to_those_who_operate(api: LiveApi) -> None:
    raw = BadMessage(
        reason="message.undecodable", text="not JSON", queue="plan", raw=b"\x00\xff!", size_bytes=3, sha256="0" * 64,
        headers={"x": 1},
    )  # fmt: skip
    dead_letters.record_raw(api.engine, [raw])
    with api.http("operator") as operator, api.http("viewer") as viewer:
        (listed,) = operator.get("/dead-letters").json()["items"]
        assert (listed["raw_size_bytes"], listed["task_id"]) == (3, None)
        shown = operator.get(f"/dead-letters/{listed['id']}").json()
        assert (b64decode(shown["raw_base64"]), shown["headers"]) == (b"\x00\xff!", {"x": 1})
        hidden = viewer.get(f"/dead-letters/{listed['id']}").json()
        assert (hidden["raw_base64"], hidden["headers"]) == (None, None)
        assert operator.post(f"/dead-letters/{listed['id']}/redrive", json={}).status_code == 409


def test_error_details_and_logs_are_for_operators(api: LiveApi) -> None:
    with api.http() as admin, api.http("viewer") as viewer:
        _, step, _ = buried(api, admin)
        (seen,) = admin.get(f"/steps/{step}").json()["attempts"]
        assert (seen["error"]["detail"], seen["log_tail"]) == ("Traceback of ours", "the log")
        (hidden,) = viewer.get(f"/steps/{step}").json()["attempts"]
        assert hidden["error"] == {"code": "gate.rejected", "text": "no good"}
        assert hidden["log_tail"] is None


def test_a_question_is_answered_once(api: LiveApi) -> None:
    with api.http() as client:
        task = submit(client)
        settle(api.engine, claim(api.engine, task, "a"), Ask(text="Which colour?"))
        assert client.get(f"/tasks/{task}").json()["step_counts"]["waiting"] == 1
        (question,) = client.get("/questions", params={"state": "open"}).json()["items"]
        assert (question["text"], question["step_key"]) == ("Which colour?", "a")
        with api.http("approver") as approver:
            answered = approver.post(f"/questions/{question['id']}/answer", json={"text": "Blue."}).json()
        assert (answered["state"], answered["answer"], answered["answered_by"]) == ("answered", "Blue.", "the approver")
        assert client.post(f"/questions/{question['id']}/answer", json={"text": "Red."}).status_code == 409
        assert claim(api.engine, task, "a").answers[0].answer == "Blue."


def test_artifacts_are_downloads_that_no_browser_runs(api: LiveApi) -> None:
    store = ArtifactStore(api.engine, "default", None)
    page = store.put(b"<script>alert(1)</script>", "text/html")
    text = store.put(b"plain", "text/plain")
    with api.http() as client:
        got = client.get(f"/artifacts/{page.sha256}")
        assert got.content == b"<script>alert(1)</script>"
        assert got.headers["content-type"] == "application/octet-stream"
        assert got.headers["content-disposition"].startswith("attachment")
        assert got.headers["x-content-type-options"] == "nosniff"
        assert client.get(f"/artifacts/{text.sha256}").headers["content-type"].startswith("text/plain")
        assert client.get(f"/artifacts/{'0' * 64}").status_code == 404


def test_the_installation_shows_queues_teams_and_workers(api: LiveApi) -> None:
    with api.http() as client:
        submit(client)
        queues = {queue["queue"]: queue for queue in client.get("/queues").json()["items"]}
        assert set(queues) == {"plan", "execute", "review"}
        assert queues["execute"]["waiting"] + queues["execute"]["published"] == 1
        until(lambda: {q["queue"]: q["depth"] for q in client.get("/queues").json()["items"]}["execute"] == 1)
        (team,) = client.get("/teams").json()["items"]
        assert (team["name"], team["agents"]["judge"]) == ("letters", "reviewer")
        detail = client.get("/teams/letters").json()
        assert detail["definition"]["name"] == "letters"
        assert client.get("/teams/letters", params={"digest": team["digest"][:8]}).json()["digest"] == team["digest"]
        assert client.get("/teams/letters", params={"digest": "ffff0000ffff"}).status_code == 404
        assert client.get("/workers").json() == {"items": [], "next_cursor": None}


def test_health_and_readiness_need_no_key(api: LiveApi) -> None:
    with api.http(None) as client:
        assert client.get("/health").json() == {"status": "ok"}
        parts = {"database": "ok", "broker": "ok", "disk": "ok", "backlog": "ok"}
        assert client.get("/ready").json() == {"status": "ready", **parts}
        assert httpx.get(f"{api.url}/health").status_code == 200


def test_events_as_pages(api: LiveApi) -> None:
    with api.http() as client:
        task = submit(client)
        finish(api.engine, task, "a")
        whole = until(lambda: (p := client.get(f"/tasks/{task}/events").json())["items"][-1:] and p)
        first = client.get(f"/tasks/{task}/events", params={"limit": 1}).json()
        rest = client.get(f"/tasks/{task}/events", params={"cursor": first["next_cursor"]}).json()
        assert first["items"] + rest["items"] == whole["items"]


def stream(client: httpx.Client, task: str, after: str | None = None) -> list[dict[str, Any]]:
    headers = {"Accept": "text/event-stream", **({"Last-Event-ID": after} if after else {})}
    with client.stream("GET", f"/tasks/{task}/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]


def test_a_live_stream_ends_with_the_task_and_misses_nothing(api: LiveApi) -> None:
    with api.http() as client:
        task = submit(client)
        seen: list[list[dict[str, Any]]] = []
        watchers = [threading.Thread(target=lambda: seen.append(stream(client, task))) for _ in range(3)]
        for watcher in watchers:
            watcher.start()
        finish(api.engine, task, "a")
        finish(api.engine, task, "b")
        for watcher in watchers:
            watcher.join(15)
        whole = client.get(f"/tasks/{task}/events").json()["items"]
        assert whole[-1]["type"] == "task.succeeded"
        assert seen == [whole, whole, whole]
        assert stream(client, task, whole[2]["cursor"]) == whole[3:]
        assert stream(client, task, whole[-1]["cursor"]) == []


def test_a_stream_survives_a_writer_that_commits_late(api: LiveApi) -> None:
    """The classic miss: a transaction that began earlier commits after a later one was read."""
    insert = "insert into events (tenant_id, task_id, type, data) values ('default', %(task)s, %(type)s, '{}')"
    with api.http() as client:
        task = submit(client)
        seen: list[dict[str, Any]] = []
        watcher = threading.Thread(target=lambda: seen.extend(stream(client, task)))
        with transaction(api.engine) as early:
            query(early, insert, task=task, type="test.early")
            watcher.start()
            with transaction(api.engine) as late:
                query(late, insert, task=task, type="test.late")
            finish(api.engine, task, "a")
        finish(api.engine, task, "b")
        watcher.join(15)
        types = [event["type"] for event in seen]
        assert types.count("test.early") == types.count("test.late") == 1
        assert types[-1] == "task.succeeded"


def test_without_a_broker_tasks_are_accepted(engine: Engine, database_url: str) -> None:
    keys = make_keys(engine)
    apply_team(engine)
    with running_api(engine, database_url, "redis://127.0.0.1:1/0") as url, LiveApi(url, engine, keys).http() as client:
        task = submit(client)
        assert client.get(f"/tasks/{task}").json()["state"] == "running"
        assert client.get("/ready").json()["status"] == "degraded"
        assert {queue["depth"] for queue in client.get("/queues").json()["items"]} == {None}


def test_without_a_database_everything_is_a_503_that_says_when_to_come_back(redis_url: str) -> None:
    from shared_state.engine import make_engine

    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    engine = make_engine(nowhere, pool_size=2)
    with running_api(engine, nowhere, redis_url) as url:
        headers = {"Authorization": "Bearer ork_00000000_" + "a" * 43}
        answers = [httpx.get(f"{url}/v1/tasks", headers=headers), httpx.get(f"{url}/v1/ready")]
        answers.append(httpx.post(f"{url}/v1/tasks", headers=headers, json={"team": "x"}))
        for answer in answers:
            assert answer.status_code == 503, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["retry-after"]) > 0
            assert "127.0.0.1" not in answer.text
        assert httpx.get(f"{url}/v1/health").status_code == 200


READS = [
    "/tasks", "/tasks/{task}", "/tasks/{task}/steps", "/tasks/{task}/events", "/tasks/{task}/result", "/steps/{step}",
    "/dead-letters", "/dead-letters/{letter}", "/dead-letters/counts", "/dead-letters/codes", "/dead-letters/export",
    "/questions", "/questions/{question}", "/workers", "/queues", "/teams", "/teams/letters", "/artifacts/{sha256}",
]  # fmt: skip
OPERATES: list[tuple[str, Any]] = [
    ("/tasks", {"team": "letters"}),
    ("/dead-letters/{letter}/notes", {"text": "look"}),
    ("/dead-letters/{letter}/edit", {"input": {"n": 1}}),
    ("/dead-letters/{letter}/redrive", {}),
    ("/dead-letters/{letter}/redrive", {"edit": {}, "dry_run": True}),
    ("/dead-letters/redrive", {"filter": {"reason": "gate.rejected"}}),
    ("/dead-letters/{letter}/discard", {"reason": "enough"}),
    ("/tasks/{task}/cancel", None),
]
DECIDES: list[tuple[str, Any]] = [("/questions/{question}/answer", {"text": "yes"})]
MAY = {"viewer": (), "operator": OPERATES, "approver": DECIDES, "admin": OPERATES + DECIDES}


@pytest.fixture
def ids(api: LiveApi) -> dict[str, str]:
    """One of everything, of tenant `default`."""
    with api.http() as client:
        task, step, letter = buried(api, client)
        asking = submit(client)
        settle(api.engine, claim(api.engine, asking, "a"), Ask(text="?"))
        (question,) = client.get("/questions").json()["items"]
    sha256 = ArtifactStore(api.engine, "default", None).put(b"x").sha256
    return {"task": task, "step": step, "letter": letter, "question": question["id"], "sha256": sha256}


@pytest.mark.parametrize("role", ROLES)
def test_every_role_may_what_it_may_and_nothing_else(api: LiveApi, ids: dict[str, str], role: str) -> None:
    with api.http(role) as client:
        for path in READS:
            assert client.get(path.format(**ids)).status_code == 200, path
        for path, body in OPERATES + DECIDES:
            answer = client.post(path.format(**ids), json=body)
            if (path, body) in MAY[role]:
                assert answer.status_code in (200, 201, 409), (path, answer.text)
            else:
                assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), path


def test_a_foreign_tenant_sees_and_moves_nothing(api: LiveApi, ids: dict[str, str]) -> None:
    with api.http() as owner, api.http("foreign") as stranger:
        owned = [path.format(**ids) for path in READS if "{" in path]
        before = [owner.get(path).content for path in owned]
        for path in READS:
            answer = stranger.get(path.format(**ids))
            if "{" in path:
                assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
            else:
                assert not any(found in answer.text for found in ids.values()), path
        assert {queue["waiting"] + queue["published"] for queue in stranger.get("/queues").json()["items"]} == {0}
        for path, body in [*OPERATES, *DECIDES]:
            answer = stranger.post(path.format(**ids), json=body)
            if "{" in path:
                assert answer.status_code == 404, path
        many = stranger.post("/dead-letters/redrive", json={"filter": {"ids": [ids["letter"], ids["task"]]}}).json()
        assert (many["redriven"], many["unchanged"]) == ([], [])
        foreign, unknown = (each["text"].replace(each["id"], "") for each in many["refused"])
        assert foreign == unknown
        stream = stranger.get(f"/tasks/{ids['task']}/events", headers={"Accept": "text/event-stream"})
        assert stream.status_code == 404
        assert [owner.get(path).content for path in owned] == before


def test_answers_carry_headers_that_keep_browsers_harmless(api: LiveApi) -> None:
    with api.http() as client:
        for path in ("/tasks", "/nothing"):
            headers = client.get(path).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
            assert "server" not in headers


def test_the_openapi_document_is_valid_and_complete(api: LiveApi) -> None:
    document = httpx.get(f"{api.url}/openapi.json").json()
    text = json.dumps(document)
    names = set(document["components"]["schemas"])
    refs = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert refs <= names
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            refusals = {status: found for status, found in operation["responses"].items() if status >= "400"}
            assert all("application/problem+json" in found["content"] for found in refusals.values()), (path, method)
            assert "500" not in refusals
            assert refusals.keys() >= {"401", "403", "429", "503"} or path in ("/v1/health", "/v1/ready")
    steps = document["paths"]["/v1/tasks/{task_id}/steps"]["get"]["responses"]["200"]
    assert "Step" in json.dumps(steps)
    assert "epoch" in document["components"]["schemas"]["Step"]["properties"]
    assert "needs" in document["components"]["schemas"]["SubmissionStep"]["properties"]
    body = document["paths"]["/v1/tasks"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["oneOf"][0] == {"$ref": "#/components/schemas/Submission"}
    headers = {p["name"]: p["schema"] for p in document["paths"]["/v1/tasks"]["post"]["parameters"]}
    assert headers["idempotency-key"]["type"] == "string"
    assert len({o["operationId"] for p in document["paths"].values() for o in p.values()}) == sum(
        len(p) for p in document["paths"].values()
    )
