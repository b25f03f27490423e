"""The installation's figures: true, of all tenants, cheap, and only for who has the token."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import SecretStr
from sqlalchemy import Engine

from contracts.errors import Failure
from contracts.settlements import Ask, Bury, Propose, Return
from orchestrator.api.application import make_api
from orchestrator.api.serve import open_publisher
from orchestrator.api.traffic import Traffic
from shared_state import dead_letters, keys, presence
from shared_state.broker.quarantine import describe
from shared_state.engine import make_engine, transaction
from shared_state.settings import Settings
from shared_state.statements import load, query
from shared_state.tasks import Created, Submission, submit
from shared_state.views import metrics as views

from ..scrape import Series, parse, scrape, value
from .api_server import apply_team, claim, make_keys, running_api, serving, settle
from .test_plans_of_statements import explain, scans

TOKEN = "a token of the tests"


@pytest.fixture
def url(engine: Engine, database_url: str, redis_url: str) -> Iterator[str]:
    make_keys(engine)
    apply_team(engine)
    apply_team(engine, tenant="elsewhere")
    with running_api(engine, database_url, redis_url, metrics_token=SecretStr(TOKEN)) as url:
        yield url


def look(url: str) -> Series:
    return scrape(f"{url}/metrics", TOKEN)


def make_task(engine: Engine, *agents: str, tenant: str = "default") -> str:
    """One step an agent, under the agent's name."""
    plan: Any = {"steps": [{"id": agent, "agent": agent, "input": {}} for agent in agents]}
    submission = Submission.model_validate({"team": "letters", "plan": plan})
    (made,) = submit(engine, tenant, [submission]).results
    assert isinstance(made, Created), made
    return str(made.task_id)


def change(engine: Engine, sql: str) -> None:
    with transaction(engine) as connection:
        query(connection, sql)


# --- who may


@pytest.mark.parametrize("with_key", [True, False])
def test_no_tenants_key_is_enough(engine: Engine, url: str, with_key: bool) -> None:
    key = keys.create(engine, "default", "the boss", "admin")
    answer = httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {key}"} if with_key else {})
    assert answer.status_code == 401
    assert answer.json()["code"] == "unauthenticated"
    assert "metrics_token" in answer.json()["detail"]


def test_without_a_token_nobody_may(engine: Engine, database_url: str, redis_url: str) -> None:
    with running_api(engine, database_url, redis_url) as url:
        answer = httpx.get(f"{url}/metrics", headers={"Authorization": "Bearer x"})
    assert answer.status_code == 401
    assert "set metrics_token" in answer.json()["detail"]


# --- what they say


def test_an_empty_installation_shows_zeros(url: str) -> None:
    series = look(url)
    assert value(series, "orchestrator_database_up") == 1
    for queue, role in (("plan", "planner"), ("execute", "executor"), ("review", "reviewer")):
        assert value(series, "orchestrator_queue_depth", queue=queue, role=role) == 0
        assert value(series, "orchestrator_queue_workers", queue=queue) == 0
    assert value(series, "orchestrator_dead_letters_open", reason="message.signature") == 0
    assert {labels["loop"] for labels, late in series["orchestrator_loop_overdue_seconds"] if not late} == {
        "sweeper", "relay", "stager"
    }  # fmt: skip


def test_steps_count_by_agent_and_state_whosever_they_are(engine: Engine, url: str) -> None:
    task = make_task(engine, "write", "checked")
    make_task(engine, "write", tenant="elsewhere")
    waiting = make_task(engine, "write")
    late = make_task(engine, "write")
    claim(engine, task, "write")
    settle(engine, claim(engine, waiting, "write"), Ask(text="which?"))
    failure = Failure(code="agent.error", text="not now")
    settle(engine, claim(engine, late, "write"), Return(failure=failure, after_seconds=600))
    change(engine, "update attempts set started_at = started_at - interval '2 hours' where state = 'running'")
    change(engine, "update outbox set created_at = created_at - interval '10 minutes'")
    series = look(url)
    for state in ("ready", "running", "waiting", "backoff"):
        assert value(series, "orchestrator_steps", agent="write", state=state) == 1, state
    assert value(series, "orchestrator_steps", agent="checked", state="ready") == 1
    assert 7200 <= (value(series, "orchestrator_steps_oldest_seconds", agent="write", state="running") or 0) < 7300
    assert value(series, "orchestrator_queue_depth", queue="execute") == 2
    assert 600 <= (value(series, "orchestrator_queue_oldest_seconds", queue="execute") or 0) < 700
    assert value(series, "orchestrator_tasks", state="running") == 3
    assert value(series, "orchestrator_tasks", state="waiting") == 1


def test_a_proposal_is_ready_for_its_reviewer(engine: Engine, url: str) -> None:
    settle(engine, claim(engine, make_task(engine, "checked"), "checked"), Propose(output={}))
    series = look(url)
    assert value(series, "orchestrator_steps", agent="judge", state="ready") == 1
    assert value(series, "orchestrator_queue_depth", queue="review", role="reviewer") == 1


def test_what_the_loops_owe_is_told_by_its_age(engine: Engine, url: str) -> None:
    lapsed, over, _unpublished = (make_task(engine, "write") for _ in range(3))
    claim(engine, lapsed, "write")
    failure = Failure(code="agent.error", text="not now")
    settle(engine, claim(engine, over, "write"), Return(failure=failure, after_seconds=1))
    change(
        engine, "update steps set lease_until = clock_timestamp() - interval '1 minute' where lease_until is not null"
    )
    change(engine, "update steps set due_at = clock_timestamp() - interval '2 minutes' where due_at is not null")
    change(engine, "update outbox set published_at = null, created_at = clock_timestamp() - interval '3 minutes'")
    series = look(url)
    for loop, seconds in {"sweeper": 60, "stager": 120, "relay": 180}.items():
        assert seconds <= (value(series, "orchestrator_loop_overdue_seconds", loop=loop) or 0) < seconds + 30


def test_the_rest_of_a_queue_that_has_enough_out_is_not_overdue(engine: Engine, url: str) -> None:
    for _ in range(2):
        make_task(engine, "write")
    change(engine, "update outbox set created_at = clock_timestamp() - interval '3 minutes'")
    change(
        engine, "update outbox set published_at = null where step_id = (select min(step_id::text)::uuid from outbox)"
    )
    assert value(look(url), "orchestrator_loop_overdue_seconds", loop="relay") == 0


def test_open_dead_letters_count_by_reason_with_bytes_and_closed_ones_do_not(engine: Engine, url: str) -> None:
    for code in ("agent.unable", "agent.unable", "agent.made_up"):
        settle(engine, claim(engine, make_task(engine, "write"), "write"), Bury(failure=Failure(code=code, text="no")))
    dead_letters.record_raw(engine, [describe("execute", "message.signature", "wrong", b"x")])
    change(
        engine,
        """update dead_letters set created_at = created_at - interval '1 hour'
        where id = (select id from dead_letters where reason = 'agent.unable' order by id limit 1)""",
    )
    change(
        engine,
        """update dead_letters set state = 'discarded', closed_at = clock_timestamp(), closed_by = 'x'
        where reason = 'agent.made_up'""",
    )
    change(
        engine, "update steps set state = 'failed' where id in (select step_id from dead_letters where state <> 'open')"
    )
    series = look(url)
    assert value(series, "orchestrator_dead_letters_open", reason="agent.unable") == 2
    assert value(series, "orchestrator_dead_letters_open", reason="agent.other") == 0
    assert value(series, "orchestrator_dead_letters_open", reason="message.signature") == 1
    assert 3600 <= (value(series, "orchestrator_dead_letters_oldest_seconds", reason="agent.unable") or 0) < 3700
    assert (value(series, "orchestrator_dead_letters_newest_seconds", reason="agent.unable") or 99) < 60


def test_workers_count_by_state_and_a_silent_one_serves_nobody(engine: Engine, url: str) -> None:
    for name, queues, busy in (("a", ["execute", "review"], 3), ("b", ["execute"], 10), ("c", ["plan"], 0)):
        presence.report(engine, name, host="h", pid=1, queues=queues, slots=10, busy=busy, state="running")
    presence.report(engine, "d", host="h", pid=1, queues=["plan"], slots=10, busy=0, state="gone")
    change(engine, "update workers set seen_at = seen_at - interval '20 seconds' where name = 'c'")
    series = look(url)
    assert value(series, "orchestrator_workers", state="running") == 2
    assert value(series, "orchestrator_workers", state="silent") == 1
    assert value(series, "orchestrator_slots") == 20
    assert value(series, "orchestrator_slots_busy") == 13
    assert value(series, "orchestrator_queue_workers", queue="execute") == 2
    assert value(series, "orchestrator_queue_workers", queue="plan") == 0
    assert value(series, "orchestrator_queue_slots_free", queue="execute") == 7
    assert value(series, "orchestrator_queue_slots_free", queue="review") == 7


def test_a_database_that_is_away_is_said(engine: Engine, redis_url: str) -> None:
    away = "postgresql://127.0.0.1:1/nowhere"
    gone = make_engine(away, pool_size=1)
    with running_api(gone, away, redis_url, metrics_token=SecretStr(TOKEN)) as url:
        series = look(url)
    assert series == {"orchestrator_database_up": [({}, 0.0)]}


def test_requests_count_by_route_never_by_address(engine: Engine, database_url: str, redis_url: str) -> None:
    registry = CollectorRegistry()
    settings = Settings(
        database_url=database_url, broker_url=redis_url, signing_keys={"test": SecretStr("a secret for tests only")}
    )
    key = make_keys(engine)["viewer"]
    made = make_api(settings, engine, open_publisher(settings), traffic=Traffic(registry))
    with serving(made) as url, httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) as client:
        for number in range(3):
            client.get(f"/v1/tasks/0193ab00-0000-7000-8000-00000000000{number}")
            client.get(f"/made/up/{number}")
        client.get("/v1/queues")
        client.request("INVENTED", "/v1/queues")
    series = parse(generate_latest(registry).decode())
    counts = {
        (has["method"], has["route"], has["status"]): number
        for has, number in series["orchestrator_http_requests_total"]
    }
    assert counts == {
        ("GET", "/v1/tasks/{task_id}", "404"): 3,
        ("GET", "none", "404"): 3,
        ("GET", "/v1/queues", "200"): 1,
        ("none", "/v1/queues", "405"): 1,
    }
    assert value(series, "orchestrator_http_request_seconds_count", method="GET", route="/v1/queues") == 1
    assert value(series, "orchestrator_http_requests_in_progress") == 0


# --- what they cost

WHOLE = {"outbox": "what is ready", "workers": "a row a process", "tenants": "a row a tenant"}
"""Tables that are read as a whole: they hold nothing of the past."""
OPEN_ONLY = {"attempts_running", "dead_letters_open", "questions_open", "steps_due", "tasks_open"}
"""Indexes of what is open: as long as that, so they may be read from end to end."""


@pytest.mark.parametrize("name", ["queues", "steps", "overdue", "dead_letters", "tasks", "workers"])
def test_the_history_is_never_read(engine: Engine, name: str) -> None:
    for scan in scans(explain(engine, load(f"metrics_{name}"))):
        if scan["Relation Name"] in WHOLE:
            continue
        assert scan["Node Type"] in ("Index Scan", "Index Only Scan"), scan
        assert scan["Index Name"] in OPEN_ONLY or re.search(r"\b(id|reason) = ", scan["Index Cond"]), scan


def test_many_scrapes_cost_one_look(engine: Engine, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    read = views.read
    monkeypatch.setattr(views, "read", lambda engine: looks.append(1) or read(engine))
    for _ in range(20):
        look(url)
    assert len(looks) <= 5
