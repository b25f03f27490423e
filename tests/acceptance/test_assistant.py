"""Team `assistant` with real worker processes and a provider that answers by a script over HTTP: a goal becomes a plan,
steps, reviews and a result; a plan and two outputs are refused on the way, and a person is asked."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from shared_state import keys
from shared_state.team_files import read_team
from tests.providers.asked import Ask
from tests.providers.scripted import Say, ScriptedProvider

from .conftest import MakeHouse
from .house import House

KEY = "sk-a-key-of-the-tests"
GOAL = "What does the order cost in all, with tax?"
ORDER = {"lines": ["desk 120.50 EUR", "lamp 79.50 EUR"]}
NET = {"instruction": "Add up the prices of all lines of the task's input.", "done_when": "each price is counted once"}
GROSS = {"instruction": "Add the tax to the sum.", "done_when": "tax and total are given in EUR"}
QUESTION = "Which tax rate holds: 7 or 19 percent?"


@pytest.fixture(scope="module")
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as started:
        started.on(lambda ask: "plan" in ask.tools, plan)
        started.on(lambda ask: "judge" in ask.tools, judge)
        started.on(lambda ask: NET["instruction"] in ask.said("user"), add_up)
        started.on(lambda ask: GROSS["instruction"] in ask.said("user"), add_tax)
        yield started


def end(name: str, **arguments: Any) -> Say:
    return Say(calls=[(name, arguments)])


def plan(ask: Ask) -> Say:
    """A first plan with an agent that there is not; the second as the refusal says."""
    agent = "work" if "has no agent 'browse'" in refusals(ask) else "browse"
    net = {"id": "net", "agent": agent, "input": NET}
    gross = {"id": "gross", "agent": "work", "input": GROSS, "needs": ["net"]}
    return end("plan", steps=[net, gross])


def add_up(ask: Ask) -> Say:
    """Reads, calculates, and miscopies the sum until the reviewer has said so."""
    asked = [turn.tool for turn in ask.results]
    if "read_source" not in asked:
        return Say(calls=[("list_sources", {}), ("read_source", {"source": "task"})])
    if "calculate" not in asked:
        return Say("Both prices are there.", calls=[("calculate", {"expression": "120.50 + 79.50"})])
    right = "is not the sum" in refusals(ask)
    evidence = [{"claim": "prices", "source": "task", "quote": line} for line in ORDER["lines"]]
    return end("answer", answer=f"{value(ask) if right else '210'} EUR", evidence=evidence)


def add_tax(ask: Ask) -> Say:
    """Asks a person; quotes what does not stand there until the gate has said so."""
    told = "\n".join(turn.text for turn in ask.turns)
    if "A person answered: 19 percent" not in told:
        return end("ask", text=QUESTION)
    if "calculate" not in [turn.tool for turn in ask.results]:
        return end("calculate", expression="200 * 1.19")
    quote = "200 EUR" if "these words do not stand in step:net" in refusals(ask) else "200.00 euros"
    evidence = [{"claim": "the sum", "source": "step:net", "quote": quote}]
    return end("answer", answer=f"38 EUR tax, {value(ask)} EUR in all", evidence=evidence)


def judge(ask: Ask) -> Say:
    """Looks for itself before it judges."""
    if not ask.results:
        return end("search_sources", text="EUR")
    if '"answer": "210 EUR"' not in ask.said("user"):
        return end("judge", accepted=True)
    reason = {"code": "review.rejected", "where": "answer", "text": "210 is not the sum", "expected": "200"}
    return end("judge", accepted=False, reasons=[reason])


def refusals(ask: Ask) -> str:
    return "\n".join(turn.text for turn in ask.turns if "refused" in turn.text)


def value(ask: Ask) -> str:
    """What the calculator has said."""
    said = next(turn.text for turn in reversed(ask.results) if turn.tool == "calculate" and '"value"' in turn.text)
    return str(json.loads(said)["data"]["value"])


@pytest.fixture(scope="module")
def house(make_house: MakeHouse, provider: ScriptedProvider) -> House:
    model = {"model": "openai-chat:scripted", "model_base_url": provider.url, "model_api_key": KEY}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    house = make_house("w1", "w2", listen_port=port, **model)
    house.apply(read_team(Path("workers/teams/assistant")))
    house.start_api()
    return house


@pytest.fixture
def cli(house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """One command as a person types it; its output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORCHESTRATOR_API_URL", f"http://127.0.0.1:{house.settings.listen_port}")
    monkeypatch.setenv("ORCHESTRATOR_API_KEY", keys.create(house.engine, "default", "a person", "admin"))

    def run(*words: str, code: int = 0) -> str:
        ended = main(words)
        said = capsys.readouterr()
        assert ended == code, (words, said)
        return said.out

    return run


def test_a_goal_becomes_a_result(house: House, provider: ScriptedProvider, cli: Any) -> None:
    task = cli("submit", "assistant", "--goal", GOAL, "--input", f"lines={json.dumps(ORDER['lines'])}").strip()
    house.until(lambda: json.loads(cli("questions", "list", "--json")), "a person is asked", 30)
    (question,) = json.loads(cli("questions", "list", "--json"))
    assert (question["step_key"], question["text"]) == ("gross", QUESTION)
    cli("questions", "answer", question["id"], "19 percent")
    house.wait(task, 30)

    result = json.loads(cli("result", task))
    assert result["outputs"] == {
        "gross": {
            "answer": "38 EUR tax, 238 EUR in all",
            "evidence": [{"claim": "the sum", "source": "step:net", "quote": "200 EUR"}],
            "missing": [],
        }
    }
    assert provider.unscripted == []
    assert {ask.headers["authorization"] for ask in provider.ledger} == {f"Bearer {KEY}"}

    assert story(house, task, "@plan") == ["planner failed plan.invalid", "planner succeeded"]
    assert story(house, task, "net") == [
        "executor succeeded",
        "reviewer succeeded review.rejected",
        "executor succeeded",
        "reviewer succeeded",
    ]
    assert story(house, task, "gross") == [
        "executor waiting",
        "executor failed gate.rejected",
        "executor succeeded",
        "reviewer succeeded",
    ]

    # A plan: 2 answers. The sum: 3, and 1 after the refusal; the total: 1, 2 after the answer, 1 after the refusal.
    # Each of the three reviews: 2. Nothing is asked twice.
    assert len(provider.ledger) == 2 + 4 + 4 + 6
    usage = json.loads(cli("status", task, "--json"))["usage"]
    assert usage["model_calls"] == len(provider.ledger)
    assert usage["output_tokens"] == sum(served.output_tokens for served in provider.served)

    (net,) = [step for step in json.loads(cli("steps", task, "--json")) if step["key"] == "net"]
    page = cli("step", net["id"], "--calls")
    turns = (
        "[system-prompt]",
        NET["done_when"],
        "[tool-call read_source]",
        "[tool-return calculate]",
        "210 is not the sum",
    )
    for said in ("of work with", ":scripted: tool_calls", *turns, "200 EUR"):
        assert said in page, page
    assert page.count("[tool-call read_source]") == 1, "what was shown is not shown again"
    assert "An earlier proposal was refused:\n  - answer: 210 is not the sum (expected: 200)" in page
    assert KEY not in page


def story(house: House, task: Any, key: str) -> list[str]:
    """Role, state and code of a step's attempts."""
    attempts = house.attempts(task, key)
    return [
        " ".join(filter(None, (each["role"], each["state"], (each["error"] or {}).get("code")))) for each in attempts
    ]
