"""Every kind of garbage on a queue while good work flows: nobody dies, nothing is lost, every piece is kept."""

from collections import Counter

import pytest
import redis as redis_client

from ..integration.test_broker_worker import KINDS
from .conftest import MakeHouse
from .house import House, fan

TIMES = 2
ALL_ROLES_HAVE_IT = "handler this worker lacks"
GARBAGE = {name: piece for name, piece in KINDS.items() if name != ALL_ROLES_HAVE_IT}


@pytest.fixture(scope="module")
def house(make_house: MakeHouse) -> House:
    return make_house("w1", "w2")


def test_garbage_among_good_work(house: House) -> None:
    pids = {name: house.pid(name) for name in house.processes}
    tasks = []
    with redis_client.Redis.from_url(house.settings.broker_url) as client:
        for number in range(TIMES):
            for raw, _ in GARBAGE.values():
                client.lpush("execute", raw)
                if len(tasks) < 20 * (number + 1):
                    tasks.append(house.submit(fan(2, 6, lambda key: {"agent": "echo", "input": {"key": key}})))
        for task_id in tasks:
            house.wait(task_id, 30)
        expected = Counter(reason for _, reason in GARBAGE.values() for _ in range(TIMES))
        house.until(lambda: letters(house) >= expected, f"every piece is a dead letter: {expected - letters(house)}")
        house.until(lambda: client.hlen("unacked") == 0, "everything is acknowledged")
    assert letters(house) == expected
    assert {name: house.pid(name) for name in house.processes} == pids, "nobody died"
    attempts = [attempt for task_id in tasks for attempt in house.attempts(task_id)]
    assert len(attempts) == 40 * 14
    assert house.violations() == []


def letters(house: House) -> Counter[str]:
    """Dead letters of bytes that are no message, by reason; each with its raw bytes."""
    rows = house.query("select reason, raw is not null as kept, queue from dead_letters where step_id is null")
    assert all(row["kept"] and row["queue"] == "execute" for row in rows)
    return Counter(row["reason"] for row in rows)
