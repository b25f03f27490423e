"""SIGTERM to a worker: what ends in time ends there, what does not goes back unharmed, and nothing is lost."""

import signal
import time
from collections import Counter

import pytest

from .conftest import MakeHouse
from .house import House, diagnostics, fan

DRAIN_SECONDS = 2.5
SHORT, LONG = 1.2, 4.5


@pytest.fixture(scope="module")
def house(make_house: MakeHouse) -> House:
    house = make_house(drain_seconds=DRAIN_SECONDS)
    house.apply(diagnostics({"sleep": {"isolation": "thread"}}, name="threads"))
    return house


@pytest.mark.parametrize("team", ["diagnostics", "threads"])
def test_a_worker_drains(house: House, team: str) -> None:
    first, second = f"{team}-first", f"{team}-second"
    house.start_workers(first)
    seconds = {"short": SHORT, "long": LONG}
    task_id = house.submit(
        [
            {"id": f"{kind}{number}", "agent": "sleep", "input": {"seconds": seconds[kind]}}
            for kind in seconds
            for number in range(3)
        ],
        team=team,
    )
    house.until(lambda: len(house.running(task_id, first)) == 6, "all run in the first worker")
    house.signal(first, signal.SIGTERM)
    began = time.monotonic()
    # What comes while it drains is not lost either.
    late = house.submit(fan(3, 10, lambda key: {"agent": "echo", "input": {"key": key}}))
    house.start_workers(second)
    assert house.exit_code(first, 15) == 0, house.tail(first)
    drained_seconds = time.monotonic() - began
    assert drained_seconds < DRAIN_SECONDS + 4, "it does not wait for what it gave back"
    house.wait(task_id, 20)
    house.wait(late, 20)

    for attempt in house.attempts(task_id, "short0"):
        assert (attempt["worker"], attempt["state"]) == (first, "succeeded")
    made = Counter((each["key"][:-1], each["worker"], each["state"]) for each in house.attempts(task_id))
    assert made == {("short", first, "succeeded"): 3, ("long", first, "failed"): 3, ("long", second, "succeeded"): 3}
    codes = {each["error"]["code"] for each in house.attempts(task_id) if each["error"]}
    assert codes == {"worker.stopped"}
    assert {row["state"] for row in house.query("select state from workers where name = %(n)s", n=first)} == {"gone"}
    assert house.violations() == []
    house.signal(second, signal.SIGTERM)
    assert house.exit_code(second, 10) == 0


def test_a_worker_told_to_stop_while_it_starts_ends_as_one_that_has_drained(house: House) -> None:
    house.start_workers("hasty")
    house.signal("hasty", signal.SIGTERM)
    assert house.exit_code("hasty", 15) == 0, house.tail("hasty")
    assert {row["state"] for row in house.query("select state from workers where name = 'hasty'")} == {"gone"}
