"""The Python client against a real API."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from contracts.errors import Conflict, Failure, InvalidInput, NotFound, Unavailable
from contracts.settlements import Ask, Bury
from orchestrator.client import Client, TimedOut
from orchestrator.refusals import Forbidden, TooLarge, Unauthenticated
from shared_state.artifacts import ArtifactStore
from shared_state.broker.quarantine import describe
from shared_state.dead_letters import record_raw

from .api_server import LiveApi, apply_team, claim, finish, make_keys, running_api, settle

PLAN = {"steps": [{"id": "a", "agent": "write"}, {"id": "b", "agent": "write", "needs": ["a"]}]}


@pytest.fixture
def client(api: LiveApi) -> Iterator[Client]:
    with Client(api.url, api.key_of["admin"]) as client:
        yield client


def test_a_task_is_submitted_watched_and_its_result_read(api: LiveApi, client: Client) -> None:
    task = client.submit("letters", plan=PLAN, labels={"x": "1"}, goal="Write.")
    kinds: list[str] = []
    watcher = threading.Thread(target=lambda: kinds.extend(event["type"] for event in client.events(task["id"])))
    watcher.start()
    with pytest.raises(TimedOut):
        client.wait(task["id"], 0.1)
    with pytest.raises(Conflict):
        client.result(task["id"])
    finish(api.engine, task["id"], "a", 1)
    finish(api.engine, task["id"], "b", 2)
    assert client.wait(task["id"], 10)["state"] == "succeeded"
    watcher.join(10)
    assert kinds[-1] == "task.succeeded"
    assert kinds == [event["type"] for event in client.past_events(task["id"])]
    assert client.result(task["id"])["outputs"] == {"b": 2}
    assert [step["key"] for step in client.steps(task["id"])] == ["a", "b"]
    assert [found["id"] for found in client.tasks(label="x=1", limit=5)] == [task["id"]]
    assert list(client.events(task["id"]))[-1]["type"] == "task.succeeded"


def test_an_iteration_reads_as_many_pages_as_it_takes(client: Client) -> None:
    made = client.submit_many([{"team": "letters", "goal": str(number)} for number in range(250)])
    assert len({item["id"] for item in made if isinstance(item, dict)}) == 250
    assert len(list(client.tasks())) == 250
    assert len(list(client.tasks(limit=210))) == 210


def test_many_tasks_are_sent_in_lists_and_each_gets_its_id_or_its_error(client: Client) -> None:
    good = {"team": "letters"}
    made = client.submit_many([*([good] * 1100), {"team": "letters", "colour": "red"}, {"team": "nobody"}])
    wrong = [each for each in made if isinstance(each, InvalidInput)]
    assert [error.field for error in wrong] == ["1100.colour", "1101.team"]
    assert wrong[0].text.startswith("1100.colour: ")
    assert len({each["id"] for each in made if isinstance(each, dict)}) == 1100
    assert client.submit_many([]) == []


def test_a_list_larger_than_a_body_may_be_is_halved(client: Client) -> None:
    made = client.submit_many(
        [{"team": "letters", "goal": "x" * 50_000}] * 7 + [{"team": "letters", "goal": "x" * 300_000}]
    )
    assert [isinstance(each, TooLarge) for each in made] == [False] * 7 + [True]


def test_a_stream_cut_by_a_restart_is_resumed_without_a_gap(engine: Engine, database_url: str, redis_url: str) -> None:
    key = make_keys(engine)["admin"]
    apply_team(engine)
    seen: list[str] = []
    half = threading.Event()

    def watch(url: str, task: str) -> None:
        with Client(url, key) as watching:
            for event in watching.events(task):
                seen.append(event["cursor"])
                half.set()

    with running_api(engine, database_url, redis_url) as url:
        with Client(url, key) as client:
            task = client.submit("letters", plan=PLAN)["id"]
        watcher = threading.Thread(target=watch, args=(url, task))
        watcher.start()
        assert half.wait(10)
    port = int(url.rpartition(":")[2])
    finish(engine, task, "a")
    with running_api(engine, database_url, redis_url, port=port) as again, Client(again, key) as client:
        finish(engine, task, "b")
        watcher.join(20)
        assert seen == [event["cursor"] for event in client.past_events(task)]


def test_problems_are_raised_as_our_errors(api: LiveApi, client: Client) -> None:
    with pytest.raises(InvalidInput) as wrong:
        client.submit("nobody")
    assert wrong.value.field == "team"
    with pytest.raises(InvalidInput):
        client.submit("letters", input={"not": {1, 2}})
    for strange in ("x", "", "../teams", "a/b?c#d"):
        with pytest.raises(NotFound):
            client.task(strange)
    with Client(api.url, "nonsense") as stranger, pytest.raises(Unauthenticated):
        stranger.task("x")
    with Client(api.url, api.key_of["viewer"]) as viewer, pytest.raises(Forbidden):
        viewer.submit("letters")
    with Client("http://127.0.0.1:1", "k") as nobody, pytest.raises(Unavailable, match="orchestrator dev"):
        next(nobody.teams())


def test_what_waits_for_people_is_read_and_decided(api: LiveApi, client: Client) -> None:
    task = client.submit("letters", plan=PLAN)["id"]
    settle(api.engine, claim(api.engine, task, "a"), Ask(text="Which?"))
    (question,) = client.questions(state="open", task=task)
    assert client.answer(question["id"], "That.")["state"] == "answered"
    with pytest.raises(Conflict):
        client.answer(question["id"], "This.")
    settle(api.engine, claim(api.engine, task, "a"), Bury(failure=Failure(code="agent.unable", text="no")))
    (letter,) = client.dead_letters(state="open")
    assert client.dead_letter(letter["id"])["step_key"] == "a"
    assert client.redrive(letter["id"], edit={"n": 1})["redriven"] == [letter["id"]]
    assert client.redrive(letter["id"])["unchanged"] == [letter["id"]]
    assert client.cancel(task)["state"] == "cancelled"


def test_dead_letters_are_worked_on_through_the_client(api: LiveApi, client: Client) -> None:
    task = client.submit("letters", plan=PLAN)["id"]
    settle(api.engine, claim(api.engine, task, "a"), Bury(failure=Failure(code="agent.unable", text="no")))
    record_raw(api.engine, [describe("execute", "message.envelope", "?", b"{}") for _ in range(120)])
    counted = {each["reason"]: each["count"] for each in client.dead_letter_counts(state="open")}
    assert counted == {"agent.unable": 1, "message.envelope": 120}
    assert set(counted) <= {each["code"] for each in client.dead_letter_codes()}
    hour = timedelta(hours=1)
    assert list(client.dead_letters(until=datetime.now(UTC) - hour)) == []
    (letter,) = client.dead_letters(agent="write", since=datetime.now(UTC) - hour)
    assert client.edit_dead_letter(letter["id"], {"n": 1})["edits"][0]["after"] == {"n": 1}
    assert client.note(letter["id"], "seen")["notes"][0]["text"] == "seen"
    exported = [each["id"] for each in client.export_dead_letters()]
    assert exported == [each["id"] for each in client.dead_letters()]
    assert len(exported) == 121
    with pytest.raises(InvalidInput) as wrong:
        next(client.export_dead_letters(colour="red"))
    assert wrong.value.field == "colour"
    raw = next(client.dead_letters(reason="message"))
    planned = client.redrive_many(ids=[letter["id"], raw["id"]], dry_run=True)
    assert (planned["redriven"], [each["id"] for each in planned["refused"]]) == ([letter["id"]], [raw["id"]])
    assert client.redrive_many(reason="agent", team="letters", per_second=4)["seconds"] == 0.25
    other = client.submit("letters", plan=PLAN)["id"]
    waiting = next(client.steps(other))["id"]
    for message in (
        {"steps": []},
        {"steps": [{"id": waiting}], "colour": "red"},
        {"steps": [{"id": waiting, "epoch": 9}]},
    ):
        with pytest.raises(InvalidInput) as wrong:
            client.redrive(raw["id"], message=message)
        assert wrong.value.field.startswith("message.")
    assert client.redrive(raw["id"], message={"steps": [{"id": waiting}]})["redriven"] == [raw["id"]]
    assert client.cancel(task)["state"] == "cancelled"


def test_artifacts_teams_queues_and_readiness(api: LiveApi, client: Client) -> None:
    ref = ArtifactStore(api.engine, "default", None).put(b"\x00bytes")
    assert client.artifact(ref.sha256) == b"\x00bytes"
    assert client.team("letters")["name"] == next(client.teams())["name"]
    assert {queue["queue"] for queue in client.queues()} == {"plan", "execute", "review"}
    assert client.workers() == []
    assert client.ready()["status"] == "ready"


def test_url_and_key_are_found_in_the_environment(
    api: LiveApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORCHESTRATOR_API_URL", api.url + "/")
    monkeypatch.setenv("ORCHESTRATOR_API_KEY", api.key_of["viewer"])
    with Client() as client:
        assert [team["name"] for team in client.teams()] == ["letters"]
