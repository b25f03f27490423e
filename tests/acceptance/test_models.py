"""Agents of kind `llm` in real workers, against a provider that answers over HTTP and keeps its own ledger."""

import gzip
import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psutil
import pytest

from tests.providers.asked import Ask
from tests.providers.models import NAME, calculating, steps, talkers
from tests.providers.scripted import Refuse, Said, Say, ScriptedProvider

from .conftest import MakeHouse
from .house import House

CANARY = "canary-" + secrets.token_hex(12)


@pytest.fixture(scope="module")
def house(make_house: MakeHouse) -> House:
    house = make_house("w1")
    (house.folder / "key").write_text(CANARY)
    return house


def apply(house: House, provider: ScriptedProvider, **agent: Any) -> None:
    house.apply(talkers(provider.url, api_key=f"file:{house.folder / 'key'}", **agent))


def usage(house: House, task: UUID) -> dict[str, int]:
    sql = """select count(*) as calls, sum(input_tokens)::int as read, sum(output_tokens)::int as written
        from model_calls where task_id = %(task)s"""
    return house.query(sql, task=task)[0]


def answer(number: int) -> Say:
    return Say(calls=[("answer", {"number": number, "words": "found"})])


def everything(house: House) -> list[str]:
    """Every row of every table as text, and every artifact as what it holds."""
    tables = house.query("select table_name as name from information_schema.tables where table_schema = 'public'")
    texts = []
    for table in tables:
        texts += [row["text"] for row in house.query(f"select t::text as text from {table['name']} t")]
    bodies = [bytes(row["body"]) for row in house.query("select body from artifacts where body is not null")]
    return texts + [gzip.decompress(body).decode() if body[:2] == b"\x1f\x8b" else repr(body) for body in bodies]


@pytest.mark.timeout(120)
def test_a_hundred_calls_at_once_in_one_worker(
    house: House, provider: ScriptedProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first hundred are answered only when all have been asked; how long calls of a second take is printed."""
    apply(house, provider)
    provider.say(answer(0))
    house.wait(house.submit(steps(0), team=NAME))
    process = psutil.Process(house.pid("w1"))
    before = process.memory_info().rss
    together = threading.Barrier(100)

    def wait_for_all(ask: Ask) -> Said:
        together.wait(60)
        return answer(1)

    provider.on(lambda ask: True, wait_for_all, times=100)
    house.wait(house.submit(steps(*range(1, 101)), team=NAME), 60)
    provider.on(lambda ask: True, Say(calls=answer(1).calls, seconds=1.0))
    began = time.monotonic()
    house.wait(house.submit(steps(*range(1, 101)), team=NAME), 60)
    took = time.monotonic() - began
    grown = (process.memory_info().rss - before) / 2**20
    with capsys.disabled():
        print(f"\n100 calls of 1 s in one worker: {took:.2f} s, memory of the process + {grown:.0f} MiB")
    assert grown < 60


def forever(ask: Ask) -> Said:
    return Say(text="And another thing. " * 100, finish="length")


def unknown_tools(ask: Ask) -> Said:
    return Say(calls=[("send_money", {"number": len(ask.results)})])


def nonsense(ask: Ask) -> Said:
    return Say(text="I have found it, of course.")


def loop(ask: Ask) -> Said:
    return Say(calls=[("calculate", {"expression": "1 + 1"})])


@pytest.mark.parametrize(
    ("script", "limits", "code"),
    [
        (loop, {"identical_requests": 4}, "bound.identical_requests"),
        (calculating(1000), {"turns": 6}, "bound.turns"),
        (calculating(1000), {"tool_calls": 5}, "bound.tool_calls"),
        (calculating(1000), {"input_tokens": 2000}, "bound.tokens"),
        (forever, {"output_tokens": 1000, "unparsable_answers": 50}, "bound.tokens"),
        (unknown_tools, {"unparsable_answers": 4}, "bound.unparsable"),
        (nonsense, {"unparsable_answers": 4}, "bound.unparsable"),
    ],
)
def test_what_does_not_end_is_ended(
    house: House, provider: ScriptedProvider, script: Callable[[Ask], Said], limits: dict[str, int], code: str
) -> None:
    apply(house, provider, limits=limits)
    provider.on(lambda ask: True, script)
    task = house.submit(steps(1), team=NAME)
    ended = house.wait(task, state="failed")
    assert ended["error"]["code"] == code, ended["error"]
    used = usage(house, task)
    assert used["calls"] == len(provider.ledger) <= 8
    assert used["read"] > 0
    assert used["written"] > 0
    assert f"{used['read']} tokens read" in ended["error"]["text"]


def test_a_provider_that_asks_to_wait_is_left_alone(house: House, provider: ScriptedProvider) -> None:
    apply(house, provider)
    refusal = Refuse(429, headers={"Content-Type": "application/json", "Retry-After": "1"})
    provider.say(calculating(2), refusal, answer(7))
    task = house.submit(steps(7), team=NAME)
    house.wait(task)
    times = [ask.at for ask in provider.ledger]
    assert len(times) == 3
    assert times[2] - times[1] >= 1.0
    assert [attempt["error"]["code"] for attempt in house.attempts(task) if attempt["error"]] == ["model.rate_limited"]


def test_a_refused_output_and_an_answered_question_go_on_in_the_same_conversation(
    house: House, provider: ScriptedProvider
) -> None:
    apply(house, provider, gates=["tests.providers.models:check_words"])
    provider.say(
        Say(calls=[("ask", {"text": "Which words?"})]),
        Say(calls=[("answer", {"number": 1, "words": "wrong"})]),
        Say(calls=[("answer", {"number": 1, "words": "right"})]),
    )
    task = house.submit(steps(1), team=NAME)
    house.until(lambda: house.task(task)["state"] == "waiting", "it asks")
    house.answer(task, "the right ones")
    house.wait(task)
    told = [[turn.text for turn in ask.results] for ask in provider.ledger]
    assert told[0] == []
    assert told[1] == ["A person answered: the right ones"]
    assert "the words are wrong" in told[2][1]
    assert usage(house, task)["calls"] == 3


def test_progress_is_told_at_the_pace_of_heartbeats(house: House, provider: ScriptedProvider) -> None:
    apply(house, provider)
    provider.on(lambda ask: True, calculating(3, seconds=1.5))
    task = house.submit(steps(1), team=NAME)
    house.wait(task)
    sql = "select data ->> 'text' as text from events where task_id = %(task)s and type = 'step.progressed' order by id"
    said = [row["text"] for row in house.query(sql, task=task)]
    assert said
    assert all(text.startswith("turn ") for text in said)
    assert len(said) <= 4


def test_the_key_is_nowhere(house: House, provider: ScriptedProvider) -> None:
    """Also where the model says it, and where the provider's error does."""
    apply(house, provider)
    provider.say(
        Say(text=f"Your key is {CANARY}"),
        Refuse(500, json.dumps({"error": {"message": f"bad key {CANARY}", "type": "server_error"}})),
        answer(1),
    )
    task = house.submit(steps(1), team=NAME)
    house.wait(task)
    assert any(CANARY in ask.headers["authorization"] for ask in provider.ledger)
    texts = everything(house)
    assert not [text[:200] for text in texts if CANARY in text]
    assert any("Your key is ***" in text for text in texts)
    for log in house.folder.glob("*.log*"):
        assert CANARY not in log.read_text(errors="replace"), log


def test_a_process_without_llm_agents_imports_no_model_sdk(house: House) -> None:
    program = """
import sys
from orchestrator.cli import main
import orchestrator.api.application, workers.app, orchestrator.loops.main, workers.describe
print([name for name in ("pydantic_ai", "openai", "anthropic") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_what_each_providers_extra_costs_in_memory_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    program = """
import importlib, psutil, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(psutil.Process().memory_info().rss)
"""
    imports = {
        "a worker": ["workers.app"],
        "models": ["workers.app", "workers.llm.runner"],
        "openai": ["workers.app", "workers.llm.runner", "pydantic_ai.models.openai"],
        "anthropic": ["workers.app", "workers.llm.runner", "pydantic_ai.models.anthropic"],
    }
    memory = {}
    for extra, names in imports.items():
        done = subprocess.run([sys.executable, "-c", program, *names], capture_output=True, check=True, timeout=60)
        memory[extra] = int(done.stdout) / 2**20
    with capsys.disabled():
        print("\nMiB after imports:", ", ".join(f"{extra} {size:.0f}" for extra, size in memory.items()))
    assert memory["a worker"] < memory["models"] < min(memory["openai"], memory["anthropic"])
