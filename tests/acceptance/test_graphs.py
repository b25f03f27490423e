"""Graphs of real workflows run as plans: no step before its parents, each once; and a large plan to its end."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from .conftest import MakeHouse
from .house import House, fan

GRAPHS = {
    "helloworld-chain-5-chameleon": 5,
    "helloworld-forkjoin-10-chameleon": 10,
    "sarek-dirt02-001": 26,
    "viralrecon-dirt02-001": 203,
    "montage-chameleon-2mass-02d-001": 619,
}


@pytest.fixture(scope="module")
def house(make_house: MakeHouse) -> Iterator[House]:
    """Nothing is injected here, so nothing may have to be rescued."""
    house = make_house("w1", "w2")
    yield house
    assert house.rescues()[:2] == (0, 0), house.rescues()


def check_order(house: House, task_id: UUID, needs: dict[str, list[str]]) -> None:
    """Each step ran once, after everything it needs was accepted."""
    made = house.attempts(task_id)
    attempts = {attempt["key"]: attempt for attempt in made}
    assert sorted(attempt["key"] for attempt in made) == sorted(needs), "each once"
    for key, parents in needs.items():
        early = [parent for parent in parents if attempts[key]["started_at"] < attempts[parent]["accepted_at"]]
        assert not early, f"{key} began before {early} were accepted"


@pytest.mark.parametrize("name", GRAPHS)
def test_a_real_graph(house: House, test_data: Path, name: str) -> None:
    graph: list[dict[str, Any]] = json.loads((test_data / "dag" / f"{name}.slim.json").read_text())
    assert len(graph) == GRAPHS[name]
    needs = {node["id"]: node["parents"] for node in graph}
    task_id = house.submit({"id": key, "agent": "echo", "input": {"id": key}, "needs": needs[key]} for key in needs)
    house.wait(task_id, 30)
    check_order(house, task_id, needs)
    assert house.violations() == []


def test_a_large_plan_runs_to_its_end(house: House) -> None:
    steps = fan(4, 499, lambda key: {"agent": "echo", "input": {"key": key}})
    assert len(steps) == 2000
    began = time.monotonic()
    task_id = house.submit(steps)
    assert time.monotonic() - began < 5
    house.wait(task_id, 40)
    check_order(house, task_id, {step["id"]: step["needs"] for step in steps})
    assert house.violations() == []


def test_ten_thousand_steps_are_accepted_in_seconds_and_run_to_their_end(house: House) -> None:
    """They do not starve a task of one step that comes after them."""
    began = time.monotonic()
    large = house.submit({"id": f"s{number}", "agent": "echo", "input": {"n": number}} for number in range(10_000))
    accepted_seconds = time.monotonic() - began
    assert accepted_seconds < 15
    small = house.submit([{"id": "only", "agent": "echo", "input": {"n": 1}}])
    house.wait(small, 10)
    assert house.task(large)["state"] == "running"
    house.wait(large, 80)
    check_order(house, large, {f"s{number}": [] for number in range(10_000)})
    assert house.violations() == []
