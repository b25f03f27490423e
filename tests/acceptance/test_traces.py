"""One trace a task, seen by a collector: every span has its right parent, whoever was killed, retried or redriven."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest

from orchestrator.embedded.folder import free_port
from shared_state import keys
from shared_state.broker.app import make_app
from tests.collector import Collector, Seen
from tests.providers.scripted import Say, ScriptedProvider

from . import traced_team
from .conftest import MakeHouse
from .house import House

COUNT = 1000
CALLER = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
"""The trace and span of somebody who calls the API from within a trace of their own."""
MODEL_KEY = "a-key-of-the-model"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("OTEL_")]:
            patch.delenv(name)
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        yield collector


@pytest.fixture(scope="module")
def house(collector: Collector, make_house: MakeHouse) -> House:
    port = free_port()
    house = make_house("w1", listen_port=port, api_url=f"http://127.0.0.1:{port}", lease_seconds=2.0)
    house.start_api()
    return house


@pytest.fixture(scope="module")
def caller(house: House) -> Iterator[httpx.Client]:
    key = keys.create(house.engine, "default", "caller", "operator")
    with httpx.Client(base_url=house.settings.api_url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as http:
        yield http


def is_attempt(span: Seen) -> bool:
    return "orchestrator.epoch" in span.attributes


def orphans(spans: list[Seen], *known: str) -> list[Seen]:
    ids = {span.id for span in spans} | {"", *known}
    return [span for span in spans if span.parent not in ids]


def unlinked(spans: list[Seen]) -> set[str]:
    """What spans of this trace link to in it and is not there."""
    ids = {span.id for span in spans}
    return {one for span in spans for of, one in span.links if of == span.trace and one not in ids}


def names(rows: list[dict[str, Any]]) -> Counter[tuple[str, int]]:
    return Counter((str(row["step_id"]), row["epoch"]) for row in rows)


def named(spans: list[Seen]) -> Counter[tuple[str, int]]:
    return Counter((span.attributes["orchestrator.step_id"], span.attributes["orchestrator.epoch"]) for span in spans)


def test_everything_a_task_leads_to_is_in_the_trace_of_who_submitted_it(
    house: House, collector: Collector, caller: httpx.Client, provider: ScriptedProvider
) -> None:
    (house.folder / "key").write_text(MODEL_KEY)
    house.apply(traced_team.team(provider.url, f"file:{house.folder / 'key'}"))
    sums = [("calculate", {"expression": expression}) for expression in ("1 + 1", traced_team.PAYLOAD)]
    provider.on(lambda ask: not ask.results, Say(calls=sums))
    provider.on(lambda ask: True, Say(calls=[("answer", {"number": 1, "words": "found"})]))
    trace, span = CALLER
    answer = caller.post(
        "/v1/tasks",
        json={"team": "traced", "input": {"said": traced_team.PAYLOAD}},
        headers={"traceparent": f"00-{trace}-{span}-01"},
    )
    task = UUID(answer.json()["id"])
    assert caller.get(f"/v1/tasks/{task}").json()["trace_id"] == trace
    house.wait(task, state="failed")
    (letter,) = caller.get("/v1/dead-letters", params={"task": str(task)}).json()["items"]
    edit = {"edit": {"times": 0}}
    assert caller.post(f"/v1/dead-letters/{letter['id']}/redrive", json=edit).status_code == 200
    house.wait(task)

    rows = house.attempts(task)
    in_trace = lambda span: span.trace == trace  # noqa: E731
    house.until(
        lambda: named(collector.of(lambda span: in_trace(span) and is_attempt(span))) == names(rows),
        "every attempt has arrived",
    )
    house.until(lambda: not orphans(collector.of(in_trace), span), "every parent has arrived")
    # A handler's span ends after those of the attempts that it led to.
    house.until(lambda: not unlinked(collector.of(in_trace)), "every handler has arrived")
    seen = collector.of(in_trace)
    by_id = {each.id: each for each in seen}
    assert len(by_id) == len(seen)
    assert {each.service for each in seen} == {"orchestrator-api", "orchestrator-worker", "orchestrator-loops"}

    (api,) = [each for each in seen if each.name == "POST /v1/tasks"]
    assert api.parent == span
    attempts = [each for each in seen if is_attempt(each)]
    assert {each.parent for each in attempts} == {api.id}
    assert {each.attributes["orchestrator.role"] for each in attempts} == {"planner", "executor", "reviewer"}
    by_key: dict[str, list[Seen]] = {}
    for each in attempts:
        by_key.setdefault(each.attributes["orchestrator.step_key"], []).append(each)
    outcomes = {
        key: sorted(str(each.attributes["orchestrator.outcome"]) for each in spans) for key, spans in by_key.items()
    }
    assert outcomes["retried"] == ["accept", "return"]
    assert outcomes["dead"] == ["accept", "bury"]
    assert outcomes["reviewed"] == ["approve", "propose", "propose", "return"]
    failed = {
        (each.attributes["orchestrator.step_key"], each.attributes["orchestrator.code"])
        for each in attempts
        if each.failed
    }
    assert failed == {("retried", "agent.diagnostic"), ("dead", "agent.diagnostic")}

    sends = [each for each in seen if each.name.startswith("send ")]
    assert {each.parent for each in sends} == {api.id}
    assert {each.service for each in sends} == {"orchestrator-api", "orchestrator-worker", "orchestrator-loops"}
    handled = [each for each in seen if each.name.startswith("run/")]
    assert handled
    assert {by_id[each.parent].name.split()[0] for each in handled} == {"send"}
    assert {by_id[one].name.split("/")[0] for each in attempts for of, one in each.links if of == trace} == {"run"}

    def inside(name: str, step: str) -> Seen:
        (found,) = [each for each in seen if each.name == name and each.parent == by_key[step][0].id]
        return found

    outputs = {
        row["key"]: row["body"]
        for row in house.query(
            "select s.key, o.body from outputs o join steps s on s.id = o.step_id where s.task_id = %(id)s", id=task
        )
    }
    for step, kind in (("note", "python"), ("program", "command")):
        assert outputs[step]["traceparent"] == f"00-{trace}-{inside(f'process {kind}', step).id}-01"
    assert inside("artifact put", "note").attributes["orchestrator.artifact.size_bytes"] == len(traced_team.PAYLOAD)
    calls = [each for each in seen if each.name == "chat scripted"]
    assert len(calls) == len(provider.ledger) == 2
    assert {each.parent for each in calls} == {by_key["find"][0].id}
    told = calls[0].attributes
    assert (told["gen_ai.operation.name"], told["gen_ai.provider.name"]) == ("chat", "openai")
    assert sum(each.attributes["gen_ai.usage.output_tokens"] for each in calls) > 0
    tools = [each for each in seen if each.name == "execute_tool calculate"]
    used, refused = sorted(tools, key=lambda each: each.failed)
    assert {used.parent, refused.parent} == {by_key["find"][0].id}
    assert (used.failed, refused.failed, refused.attributes["error.type"]) == (False, True, "tool.arguments")
    assert (
        used.attributes.items()
        >= {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": "calculate",
            "gen_ai.conversation.id": told["gen_ai.conversation.id"],
        }.items()
    )
    assert used.attributes["gen_ai.tool.call.id"] != refused.attributes["gen_ai.tool.call.id"]

    sent = b"".join(collector.bytes)
    for secret in (traced_team.PAYLOAD, MODEL_KEY, caller.headers["Authorization"].split()[1]):
        assert secret.encode() not in sent


def test_the_attempt_of_a_killed_worker_is_told_by_who_recovers_it(
    house: House, collector: Collector, caller: httpx.Client
) -> None:
    house.apply(traced_team.team("http://127.0.0.1:9/v1", "env:NONE"))
    house.start_workers("killed")
    house.signal("w1", signal.SIGSTOP)  # the step goes to the one that will be killed
    try:
        plan = {"steps": [{"id": "s", "agent": "wait_once", "input": {}}]}
        task = UUID(caller.post("/v1/tasks", json={"team": "traced", "plan": plan}).json()["id"])
        trace = caller.get(f"/v1/tasks/{task}").json()["trace_id"]
        in_trace = lambda span: span.trace == trace  # noqa: E731
        house.until(lambda: any(span.name == "artifact put" for span in collector.of(in_trace)), "an artifact is told")
        (begun,) = collector.of(lambda span: in_trace(span) and span.name == "artifact put")
        assert begun in orphans(collector.of(in_trace))
        house.kill("killed")
    finally:
        house.signal("w1", signal.SIGCONT)
    house.wait(task)
    rows = house.attempts(task)
    house.until(
        lambda: named(collector.of(lambda span: in_trace(span) and is_attempt(span))) == names(rows),
        "both attempts have arrived",
    )
    assert [row["state"] for row in rows] == ["expired", "succeeded"]
    house.until(lambda: not orphans(collector.of(in_trace)), "no orphan is left")
    (first,) = collector.of(lambda span: span.id == begun.parent)
    assert first.service == "orchestrator-loops"
    assert first.attributes["orchestrator.code"] == "lease.expired"


def test_a_thousand_tasks_have_no_orphan_and_a_worker_that_is_told_to_stop_sends_what_it_has(
    house: House, collector: Collector, caller: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        # So much is sent at once that only its end can send what is left of it.
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
        house.start_workers("leaves")
    control = make_app(house.settings).control
    house.until(lambda: len(control.ping(timeout=1.0, limit=2)) == 2, "it takes its share of messages")
    before = len(collector.spans)
    plan = {"steps": [{"id": "s", "agent": "echo", "input": {"value": 1}}]}
    answer = caller.post("/v1/tasks", json=[{"team": "diagnostics", "plan": plan}] * COUNT)
    ids = [UUID(item["id"]) for item in answer.json()["items"]]
    sql = "select count(*)::int as count from attempts where worker = 'leaves' and state = 'succeeded'"
    house.until(lambda: house.query(sql)[0]["count"] >= 20, "the worker has done something")
    house.signal("leaves", signal.SIGTERM)
    assert house.exit_code("leaves", 20) == 0

    def ended() -> int:
        sql = "select count(*)::int as count from tasks where id = any(%(ids)s) and state = 'succeeded'"
        return int(house.query(sql, ids=ids)[0]["count"])

    house.until(lambda: ended() == COUNT, "all have ended", 60)
    rows = house.query("select step_id, epoch, worker from attempts where task_id = any(%(ids)s)", ids=ids)

    def arrived() -> list[Seen]:
        return [span for span in list(collector.spans)[before:] if is_attempt(span)]

    house.until(lambda: len(arrived()) >= len(rows), "every attempt has arrived")
    assert named(arrived()) == names(rows)
    assert len({span.trace for span in arrived()}) == 1  # one request submitted them
    by_worker = Counter(span.instance for span in arrived())
    assert by_worker["leaves"] == sum(row["worker"] == "leaves" for row in rows) >= 20
    house.until(lambda: not orphans(collector.spans, CALLER[1]), "every parent has arrived")
