"""Steps that crash, hang, leak, flood or fork: their attempts end as they should, and nobody else notices."""

import os
import statistics
import time
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest

from shared_state import dead_letters, outbox

from .conftest import MakeHouse
from .house import ENDED, House, diagnostics

ATTEMPTS = 2


@pytest.fixture(scope="module")
def house(make_house: MakeHouse) -> House:
    """One worker, so that everybody is a neighbour."""
    house = make_house("w1")
    retry = {"default": {"attempts": ATTEMPTS, "backoff_seconds": 0.1, "backoff_limit_seconds": 0.1}}
    house.apply(diagnostics({"hang": {"timeout_seconds": 2}}, name="poison", retry=retry))
    house.wait(house.submit([{"id": "warm", "agent": "echo_process", "input": {"n": 1}}]))
    return house


def echo_once(house: House) -> float:
    """Seconds from submitting a step to its end."""
    began = time.monotonic()
    task_id = house.submit([{"id": "echo", "agent": "echo", "input": {"n": 1}}])
    house.wait(task_id, 10)
    assert [attempt["state"] for attempt in house.attempts(task_id)] == ["succeeded"]
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("agent", "given", "code", "attempts", "limit_seconds"),
    [
        ("crash", {"times": 100}, "agent.crashed", ATTEMPTS, 2.0),
        ("hang", {}, "bound.time", ATTEMPTS, 3.5),
        ("leak", {"megabytes": 4096}, "bound.memory", ATTEMPTS, 10.0),
        ("print", {"bytes": 1_000_000_000}, "bound.output", 1, 5.0),
    ],
)
def test_a_step_ends_with_its_code_and_hurts_nobody(
    house: House, agent: str, given: dict[str, Any], code: str, attempts: int, limit_seconds: float
) -> None:
    pid = house.pid("w1")
    calm = statistics.median(echo_once(house) for _ in range(5))
    task_id = house.submit([{"id": "bad", "agent": agent, "input": given}], team="poison")
    beside = []
    deadline = time.monotonic() + 30
    while house.task(task_id)["state"] not in ENDED:
        beside.append(echo_once(house))
        assert time.monotonic() < deadline, "the poison does not end"
    house.wait(task_id, state="failed")
    assert statistics.median(beside) < 2 * calm + 0.3, (calm, beside)
    assert max(beside) < 2.0, (calm, beside)
    assert house.pid("w1") == pid

    made = house.attempts(task_id)
    assert [attempt["error"]["code"] for attempt in made] == [code] * attempts
    assert all(attempt["seconds"] < limit_seconds for attempt in made), [attempt["seconds"] for attempt in made]
    assert all(len(attempt["log_tail"] or "") < 100_000 for attempt in made)
    assert [letter["reason"] for letter in letters(house, task_id)] == [code]
    house.until(lambda: not house.strays(), "no process is left", 5)


def test_what_an_attempt_forked_ends_with_it(house: House) -> None:
    task_id = house.submit([{"id": "fork", "agent": "fork", "input": {"children": 5}}], team="poison")
    house.wait(task_id)
    output = house.query("select body from outputs where task_id = %(id)s", id=task_id)[0]["body"]
    assert len(output["children"]) == 5
    assert not any(lives(pid) for pid in output["children"])
    assert house.strays() == {}


def test_redriving_once_works_and_a_second_time_does_nothing(house: House) -> None:
    task_id = house.submit([{"id": "bad", "agent": "crash", "input": {"times": 100}}], team="poison")
    house.wait(task_id, state="failed")
    letter = letters(house, task_id)[0]["id"]
    first = dead_letters.redrive(house.engine, "default", [letter], "tester", edit={"times": 0})
    second = dead_letters.redrive(house.engine, "default", [letter], "tester")
    assert (first.redriven, first.unchanged) == ([letter], [])
    assert (second.redriven, second.unchanged, second.wakeups) == ([], [letter], [])
    outbox.publish(house.publisher, first.wakeups)
    house.wait(task_id)
    third = dead_letters.redrive(house.engine, "default", [letter], "tester")
    assert (third.redriven, third.unchanged) == ([], [letter])
    assert house.task(task_id)["state"] == "succeeded"
    states = [attempt["state"] for attempt in house.attempts(task_id)]
    assert states == ["failed"] * ATTEMPTS + ["succeeded"]
    assert house.violations() == []


def letters(house: House, task_id: UUID) -> list[dict[str, Any]]:
    return house.query("select * from dead_letters where task_id = %(id)s order by id", id=task_id)


def lives(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False
