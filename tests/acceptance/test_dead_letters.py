"""Dead letters as the person on call meets them: real workers, and nothing but the command line to mend with."""

import json
import os
import socket
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from contracts.teams import Agent, Team
from orchestrator.cli import main
from shared_state import keys
from shared_state.team_files import read_team

from . import refusing_team
from .conftest import MakeHouse
from .house import House

COUNT = 500
PER_SECOND = 100.0
Cli = Callable[..., str]


@pytest.fixture(scope="module")
def house(make_house: MakeHouse) -> House:
    house = make_house("w1", listen_port=free_port())
    house.apply(read_team(Path(str(files("workers.teams.diagnostics")))))
    agent = Agent(call="tests.acceptance.outage:ask_provider", isolation="thread")
    house.apply(Team(name="outage", agents={"ask": agent}, retry={"default": {"attempts": 1}}))
    house.start_api()
    return house


@pytest.fixture(scope="module")
def key(house: House) -> str:
    return keys.create(house.engine, "default", "on call", "operator")


@pytest.fixture
def cli(house: House, key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs one command and gives what it printed; fails unless it exits with `code`."""
    url = f"http://127.0.0.1:{house.settings.listen_port}"
    for name in [name for name in os.environ if name.startswith("ORCHESTRATOR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ORCHESTRATOR_API_URL", url)
    monkeypatch.setenv("ORCHESTRATOR_API_KEY", key)

    def run(*words: str, code: int = 0) -> str:
        ended = main(words)
        said = capsys.readouterr()
        assert ended == code, (words, said)
        return said.out + said.err

    return run


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_a_poisonous_step_is_read_edited_and_redriven_by_command_line_alone(house: House, cli: Cli) -> None:
    plan: dict[str, Any] = {
        "steps": [
            {"id": "before", "agent": "echo", "input": {"n": 1}},
            {"id": "poison", "agent": "crash", "input": {"times": 1000}, "needs": ["before"]},
            {"id": "after", "agent": "echo", "input": {"n": 2}, "needs": ["poison"]},
        ]
    }
    task = cli("submit", "diagnostics", "--plan", json.dumps(plan)).strip()
    assert "failed" in cli("watch", task, code=1).splitlines()[-1]
    letter = json.loads(cli("dead-letters", "list", "--task", task, "--json"))[0]["id"]
    page = cli("dead-letters", "show", letter)
    for said in (
        "agent.crashed",
        "what to do",
        "attempt 3",
        "on w1",
        '"times": 1000',
        "after skipped",
        f"task         {task} failed",
    ):
        assert said in page, (said, page)
    assert "input.times" in cli("dead-letters", "edit", letter, "--input", '{"times": "never"}', code=2)
    cli("dead-letters", "edit", letter, "--input", '{"times": 0}')
    cli("dead-letters", "note", letter, "a thousand crashes were not meant")
    assert f"{letter} redriven" in cli("dead-letters", "redrive", letter)
    assert f"{letter} unchanged" in cli("dead-letters", "redrive", letter)
    assert cli("watch", task).splitlines()[-1] == "task succeeded"
    assert [attempt["state"] for attempt in house.attempts(task, "poison")] == ["failed"] * 3 + ["succeeded"]
    (told,) = cli("dead-letters", "export", "--all", "--task", task).splitlines()[:1]
    story = json.loads(told)
    assert (story["state"], story["closed_by"]) == ("redriven", "on call")
    assert story["edits"][0]["before"] == {"times": 1000}
    assert story["notes"][0]["text"] == "a thousand crashes were not meant"


def test_five_hundred_of_one_reason_are_redriven_by_filter_at_a_rate(house: House, cli: Cli, tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.touch()
    steps = [{"id": f"s{number}", "agent": "ask", "input": {"away": str(away)}} for number in range(COUNT)]
    task = house.submit(steps, team="outage")
    house.wait(task, state="failed")
    assert f"{COUNT}" in cli("dead-letters", "counts", "--team", "outage", "--reason", "agent.error")
    away.unlink()
    words = (
        "dead-letters",
        "redrive",
        "--all",
        "--reason",
        "agent.error",
        "--team",
        "outage",
        "--per-second",
        str(PER_SECOND),
    )
    planned = json.loads(cli(*words, "--dry-run", "--json"))
    assert (len(planned["redriven"]), planned["refused"]) == (COUNT, [])
    assert house.task(task)["state"] == "failed"
    done = json.loads(cli(*words, "--json"))
    assert (len(done["redriven"]), done["seconds"]) == (COUNT, COUNT / PER_SECOND)
    house.wait(task, 30)
    starts = sorted(
        attempt["started_at"].timestamp()
        for attempt in house.attempts(task)
        if attempt["accepted_epoch"] == attempt["epoch"]
    )
    assert len(starts) == COUNT
    assert starts[-1] - starts[0] > 0.8 * COUNT / PER_SECOND
    # The stager looks twice a second, so a second can hold one look more than its own.
    busiest = max(sum(start <= other < start + 1 for other in starts) for start in starts)
    assert busiest <= 1.75 * PER_SECOND
    assert json.loads(cli(*words, "--json"))["redriven"] == []


def test_a_failed_task_is_forked_from_its_dead_step_and_what_was_done_stays_done(
    house: House, cli: Cli, tmp_path: Path
) -> None:
    house.apply(refusing_team.team())
    book = tmp_path / "ledger"
    good, bad = {"ledger": str(book)}, {"ledger": str(book), "refuse": True}
    steps: list[dict[str, Any]] = [
        {"id": "a", "agent": "write", "input": good},
        {"id": "b", "agent": "write", "input": good, "needs": ["a"]},
        {"id": "c", "agent": "write", "input": bad, "needs": ["b"]},
        {"id": "d", "agent": "write", "input": good, "needs": ["c"]},
    ]
    task = cli("submit", "refusing", "--plan", json.dumps({"steps": steps}), "--wait", code=1).split()[1]
    assert "edit.refuse" in cli("fork", task, "--from", "c", "--edit", '{"ledger": "x", "refuse": "no"}', code=2)
    words = ("fork", task, "--from", "c", "--edit", json.dumps(good), "--idempotency-key", "once")
    fork = cli(*words).strip()
    assert cli(*words).strip() == fork
    assert cli("watch", fork).splitlines()[-1] == "task succeeded"

    ran = [line.split() for line in book.read_text().splitlines()]
    assert ran == [[task, key] for key in "abc"] + [[fork, key] for key in "cd"]
    assert f"{task} at step c with another input, by on call" in cli("status", fork)
    shown = {line.split()[1]: line for line in cli("steps", fork).splitlines()[1:]}
    assert [key for key, line in shown.items() if "succeeded, shared" in line] == ["a", "b"]
    assert "task.forked" in cli("events", fork)
    assert fork in cli("events", task)
    assert json.loads(cli("result", fork))["outputs"] == {"d": {"by": fork}}
    assert "no step 'z'" in cli("fork", task, "--from", "z", code=2)
    assert "failed" in cli("status", task)
