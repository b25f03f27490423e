"""Every kind of garbage on a queue while good work flows: nobody dies, nothing is lost, every piece is kept."""

import os
import statistics
import time
from collections import Counter
from uuid import UUID

import pytest

from ..brokers import Piece, TestBroker
from .conftest import MakeHouse
from .house import House, fan

TIMES = 2
ALL_ROLES_HAVE_IT = "handler this worker lacks"


@pytest.fixture(scope="module")
def house(make_house: MakeHouse) -> House:
    return make_house("w1", "w2")


@pytest.fixture
def garbage(broker_of_choice: TestBroker) -> list[tuple[Piece, str]]:
    return [piece for name, piece in broker_of_choice.garbage.items() if name != ALL_ROLES_HAVE_IT]


def test_garbage_among_good_work(house: House, broker_of_choice: TestBroker, garbage: list[tuple[Piece, str]]) -> None:
    pids = {name: house.pid(name) for name in house.processes}
    tasks = []
    for number in range(TIMES):
        for piece, _ in garbage:
            broker_of_choice.lay("execute", [piece])
            if len(tasks) < 20 * (number + 1):
                tasks.append(house.submit(fan(2, 6, lambda key: {"agent": "echo", "input": {"key": key}})))
    for task_id in tasks:
        house.wait(task_id, 30)
    expected = Counter(reason for _, reason in garbage for _ in range(TIMES))
    house.until(lambda: letters(house) >= expected, f"every piece is a dead letter: {expected - letters(house)}")
    house.until(lambda: broker_of_choice.waiting() == 0, "everything is acknowledged")
    assert letters(house) == expected
    assert {name: house.pid(name) for name in house.processes} == pids, "nobody died"
    attempts = [attempt for task_id in tasks for attempt in house.attempts(task_id)]
    assert len(attempts) == 40 * 14
    assert house.violations() == []


@pytest.mark.skipif(not os.environ.get("ORCHESTRATOR_TEST_LONG"), reason="60 s of load: set ORCHESTRATOR_TEST_LONG=1")
@pytest.mark.timeout(200)
def test_twenty_of_each_kind_in_30_seconds_leave_good_work_its_pace(
    make_house: MakeHouse, broker_of_choice: TestBroker, garbage: list[tuple[Piece, str]]
) -> None:
    """Clean and littered windows of five seconds in turn; 20 of each kind in the six littered ones."""
    house = make_house("w1", "w2")
    pids = {name: house.pid(name) for name in house.processes}
    pieces = [piece for piece, _ in garbage for _ in range(20)]
    share = -(-len(pieces) // 6)
    rates: dict[bool, list[float]] = {True: [], False: []}
    keep_busy(house, 5, [], broker_of_choice)
    for window in range(6):
        rates[False].append(keep_busy(house, 5, [], broker_of_choice))
        rates[True].append(keep_busy(house, 5, pieces[window * share : (window + 1) * share], broker_of_choice))
    expected = Counter(reason for _, reason in garbage for _ in range(20))
    house.until(lambda: letters(house) >= expected, f"every piece is a dead letter: {expected - letters(house)}")
    ratio = statistics.median(rates[True]) / statistics.median(rates[False])
    print(f"{len(pieces)} pieces of {len(garbage)} kinds; littered / clean pace {ratio:.2f}; {rates}")
    assert letters(house) == expected
    assert {name: house.pid(name) for name in house.processes} == pids, "nobody died"
    assert house.violations() == []
    assert ratio >= 0.8


def keep_busy(house: House, seconds: float, pieces: list[Piece], broker: TestBroker) -> float:
    """Ten tasks of fifteen steps in flight all the time, `pieces` laid evenly meanwhile; tasks a second."""
    began, done, pushed = time.monotonic(), 0, 0
    flying: list[UUID] = []
    while (elapsed := time.monotonic() - began) < seconds:
        due = min(len(pieces), int(len(pieces) * elapsed / seconds) + 1)
        broker.lay("execute", pieces[pushed:due])
        pushed = due
        while len(flying) < 10:
            flying.append(house.submit(fan(2, 6, lambda key: {"agent": "echo", "input": {"key": key}})))
        rows = house.query("select id from tasks where id = any (%(ids)s) and finished_at is not null", ids=flying)
        done += len(rows)
        ended = {row["id"] for row in rows}
        flying = [task_id for task_id in flying if task_id not in ended]
    broker.lay("execute", pieces[pushed:])
    for task_id in flying:
        house.wait(task_id, 30)
    return done / seconds


def letters(house: House) -> Counter[str]:
    """Dead letters of bytes that are no message, by reason; each with its raw bytes."""
    rows = house.query("select reason, raw is not null as kept, queue from dead_letters where step_id is null")
    assert all(row["kept"] and row["queue"] == "execute" for row in rows)
    return Counter(row["reason"] for row in rows)
