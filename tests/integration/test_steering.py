"""Steering as people do it: over HTTP, with the client, and by the command line."""

import json
from collections.abc import Iterator
from io import StringIO

import pytest
from rich.console import Console

from contracts.errors import Conflict, Failure, NotFound
from contracts.settlements import Bury
from contracts.teams import Agent, Team
from orchestrator.cli import main
from orchestrator.cli.screen import Look, draw
from orchestrator.client import Client
from orchestrator.refusals import Forbidden
from shared_state import presence
from shared_state.engine import transaction
from shared_state.outbox import relay
from shared_state.shapes import Overview
from shared_state.statements import query

from .api_server import LiveApi, apply_team, claim, settle
from .test_rules import Sink

PLAN = {"steps": [{"id": "a", "agent": "write"}, {"id": "b", "agent": "write"}, {"id": "c", "agent": "write"}]}


@pytest.fixture
def client(api: LiveApi, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """An admin's; the command line is one as well."""
    monkeypatch.setenv("ORCHESTRATOR_API_URL", api.url)
    monkeypatch.setenv("ORCHESTRATOR_API_KEY", api.key_of["admin"])
    with Client(api.url, api.key_of["admin"]) as client:
        yield client


def say(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(words) == code, capsys.readouterr()
    return capsys.readouterr().out


def report(api: LiveApi, name: str, **changed: object) -> presence.Heard:
    fields = {"host": "h", "pid": 1, "queues": ["execute"], "slots": 4, "busy": 3, "state": "running", **changed}
    return presence.report(api.engine, name, **fields)  # type: ignore[arg-type]


def pass_relay(api: LiveApi) -> None:
    relay(api.engine, Sink(), republish_seconds=0, window=1000)


def test_a_task_is_paused_and_resumed(api: LiveApi, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    task = client.submit("letters", plan=PLAN)["id"]
    claim(api.engine, task, "a")
    say(capsys, "pause", task, "--reason", "its source\nis being mended")
    pass_relay(api)
    (found,) = client.task(task)["pauses"]
    assert (found["paused_by"], found["reason"], found["held"]) == ("the admin", "its source\nis being mended", 2)
    assert client.pauses() == [found]
    shown = say(capsys, "status", task)
    assert "by the admin: its source is being mended" in shown
    steps = {step["key"]: client.step(step["id"]) for step in client.steps(task)}
    assert steps["a"]["held"] is None
    assert (steps["b"]["state"], steps["b"]["held"] and steps["b"]["held"]["by"]) == ("ready", "pause")
    queues = {queue["queue"]: queue for queue in client.queues()}
    assert {name: queues["execute"][name] for name in ("waiting", "published", "paused", "running")} == {
        "waiting": 0, "published": 0, "paused": 2, "running": 1,
    }  # fmt: skip
    assert "is being mended" in say(capsys, "pauses")
    assert "resumed" in say(capsys, "resume", task)
    assert client.pauses() == []
    assert [event["type"] for event in client.past_events(task)][-2:] == ["task.paused", "task.resumed"]
    client.cancel(task)
    with pytest.raises(NotFound):
        client.pause_task("01a21ed7-0000-7000-8000-000000000000")


def test_a_team_and_an_agent_are_paused_and_resumed(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    task = client.submit("letters", plan=PLAN)["id"]
    say(capsys, "pause", "--team", "letters")
    say(capsys, "pause", "--team", "letters", "--agent", "write", "--reason", "529")
    assert [(each["team"], each["agent"], each["task_id"]) for each in client.task(task)["pauses"]] == [
        ("letters", None, None),
        ("letters", "write", None),
    ]
    shown = say(capsys, "resume", task)
    assert "2 of its team or agents are in force" in shown
    assert "agent letters/write" in say(capsys, "resume", "--team", "letters")
    assert client.resume_team("letters", "write") == []
    for words in (["pause"], ["pause", task, "--team", "x"], ["pause", task, "--agent", "x"], ["resume"]):
        say(capsys, *words, code=2)
    with pytest.raises(NotFound):
        client.pause_team("letters", "nobody")
    assert "nothing is paused" not in say(capsys, "pauses", "--json")


def test_who_may_steer(api: LiveApi) -> None:
    report(api, "w1")
    with Client(api.url, api.key_of["viewer"]) as viewer, Client(api.url, api.key_of["operator"]) as operator:
        with pytest.raises(Forbidden):
            viewer.pause_team("letters")
        assert viewer.pauses() == viewer.limits() == []
        operator.pause_team("letters")
        with pytest.raises(Forbidden):
            operator.drain("w1")


def test_limits_are_the_teams_applied_last(api: LiveApi, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    task = client.submit("letters", plan=PLAN)["id"]
    agents = {"write": Agent(call="letters:write", concurrency=1)}
    apply_team(api.engine, Team(name="letters", agents=agents))
    pass_relay(api)
    held = [step["key"] for step in client.steps(task) if client.step(step["id"])["held"]]
    assert len(held) == 2
    (free,) = {"a", "b", "c"} - set(held)
    claim(api.engine, task, free)
    assert client.limits() == [{"team": "letters", "agent": "write", "concurrency": 1, "running": 1, "held": 2}]
    assert say(capsys, "limits").split()[-5:] == ["letters", "write", "1", "1", "2"]
    (queue,) = [queue for queue in client.queues() if queue["queue"] == "execute"]
    assert queue["limited"] == 2


def test_a_worker_is_asked_to_drain(api: LiveApi, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(api, "w1", first=True).drain_requested_by is None
    say(capsys, "drain", "w1")
    client.drain("w1")
    assert report(api, "w1").drain_requested_by == "the admin"
    assert "the admin" in say(capsys, "workers")
    assert report(api, "w1", first=True).drain_requested_by is None, "not of who comes after it by the same name"
    report(api, "w1", state="gone")
    with pytest.raises(Conflict):
        client.drain("w1")
    with pytest.raises(NotFound):
        client.drain("nobody")


def test_the_overview_has_all_of_it(api: LiveApi, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    report(api, "w1")
    task = client.submit("letters", plan=PLAN)["id"]
    before = client.overview()
    assert before["moves"] is None
    dead = claim(api.engine, task, "a")
    settle(api.engine, dead, Bury(failure=Failure(code="agent.unable", text="no")))
    claim(api.engine, task, "b")
    client.pause_team("letters", "judge", reason="\x1b[2Jwipe")
    found = client.overview(before["cursor"])
    assert found["moves"] == [{"queue": "execute", "begun": 2, "failed": 1}]
    assert found["tasks"] == {"running": 1}
    assert [(each["key"], each["state"]) for each in found["oldest"]] == [("c", "ready"), ("b", "running")]
    assert [(each["reason"], each["count"]) for each in found["dead_letters"]] == [("agent.unable", 1)]
    assert [worker["name"] for worker in found["workers"]] == ["w1"]
    assert [pause["agent"] for pause in found["pauses"]] == ["judge"]
    told = say(capsys, "top", "--once")
    for text in ("letters/write", "agent.unable", "agent letters/judge", "3/4", "1 running"):
        assert text in told
    assert "\x1b[2J" not in told
    assert json.loads(say(capsys, "top", "--json"))["moves"] == []


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (100, 30)])
def test_the_screen_fits(api: LiveApi, client: Client, width: int, height: int) -> None:
    """However much there is to show."""
    for number in range(30):
        report(api, f"worker-{number}")
    client.submit("letters", plan={"steps": [{"id": f"s{n}", "agent": "write"} for n in range(30)]})
    with transaction(api.engine) as connection:
        query(
            connection,
            """insert into rules (tenant_id, team_name, agent, concurrency, set_by)
            select 'default', 'letters', 'agent' || n, n %% 2, 'me' from generate_series(1, 30) n""",
        )
    overview: Overview = client.overview()
    console = Console(file=StringIO(), width=width, height=height, force_terminal=True)
    lines = console.render_lines(draw(Look("http://x", overview, 0.0, 0.0, None), width, height), pad=False)
    assert len(lines) <= height
    assert "more" in "".join(segment.text for line in lines for segment in line)
