"""Who cannot keep a lease loses the step: a frozen worker's late result is refused, a cancelled step is stopped."""

import signal
import time

import pytest

from shared_state.tasks import cancel

from .conftest import MakeHouse
from .house import House, diagnostics

LEASE_SECONDS = 2.0


@pytest.fixture(scope="module")
def house(make_house: MakeHouse) -> House:
    house = make_house("w1", lease_seconds=LEASE_SECONDS)
    house.apply(diagnostics({"hang": {"timeout_seconds": 300}}))
    house.apply(diagnostics({"sleep": {"isolation": "thread"}}, name="threads"))
    return house


@pytest.mark.parametrize("team", ["diagnostics", "threads"])
def test_a_frozen_worker_cannot_settle(house: House, team: str) -> None:
    """The attempts end while their worker is frozen, so it wakes up with results in its hands."""
    other = f"other-{team}"
    # It knows the team already: what it holds when it freezes are steps, not a half-read answer of the database.
    house.wait(house.submit([{"id": "warm", "agent": "sleep", "input": {"seconds": 0}}], team=team))
    task_id = house.submit(
        [{"id": f"s{number}", "agent": "sleep", "input": {"seconds": 1.5}} for number in range(5)], team=team
    )
    house.until(lambda: len(house.running(task_id, "w1")) == 5, "all run")
    log_size = house.processes["w1"].log.size()
    house.signal("w1", signal.SIGSTOP)
    frozen_at = time.monotonic()
    try:
        house.start_workers(other)
        house.wait(task_id, 20)
        house.until(lambda: time.monotonic() > frozen_at + 3 * LEASE_SECONDS, "three leases have passed")
    finally:
        house.signal("w1", signal.SIGCONT)
    house.until(lambda: len(refusals(house, log_size)) == 5, "the frozen worker notices that it is too late")
    for number in range(5):
        made = [(each["worker"], each["state"], each["epoch"]) for each in house.attempts(task_id, f"s{number}")]
        assert made[0][:2] == ("w1", "expired")
        assert made[1:] == [(other, "succeeded", made[0][2] + 1)]
    assert house.violations() == []

    house.signal(other, signal.SIGTERM)
    assert house.exit_code(other, 10) == 0
    again = house.submit([{"id": "echo", "agent": "echo", "input": {"n": 1}}])
    house.wait(again, 15)
    assert [attempt["worker"] for attempt in house.attempts(again)] == ["w1"], "the frozen worker works again"


def test_cancelling_stops_what_runs(house: House) -> None:
    task_id = house.submit([{"id": f"h{number}", "agent": "hang", "input": {}} for number in range(3)])
    house.until(lambda: len(house.running(task_id)) == 3, "all hang")
    began = time.monotonic()
    cancel(house.engine, "default", task_id, "tester")
    house.wait(task_id, 10, "cancelled")
    assert time.monotonic() - began < 4
    house.until(lambda: not house.strays(), "no process is left", 2)
    assert {attempt["state"] for attempt in house.attempts(task_id)} == {"cancelled"}
    assert house.violations() == []


def refusals(house: House, log_size: int) -> list[str]:
    said = house.processes["w1"].log.tail(100_000, since=log_size).splitlines()
    return [line for line in said if "attempt.lost" in line or "attempt.stale" in line]
