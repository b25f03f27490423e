"""Without a fault nothing has to be rescued: no lease expires, and no step waits for the sweeper while slots are free.

What is published again because nobody has a slot for it is no fault, and counts apart; and that the counts do count is
shown by faults.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import pytest

from shared_state.tasks import cancel

from .conftest import MakeHouse
from .house import House, Rescues, fan

WAIT_SECONDS = 5.0
"""Ready and not begun: far below the time after which anything is published again, and far above a slow machine's."""


class MakeAlone(Protocol):
    def __call__(self, *workers: str, **settings: object) -> AbstractContextManager[House]: ...


@pytest.fixture
def alone(make_house: MakeHouse) -> MakeAlone:
    """One house at a time: all would share the broker's queues."""

    @contextmanager
    def make(*workers: str, **settings: object) -> Iterator[House]:
        house = make_house(*workers, **settings)
        yield house
        house.stop()

    return make


def test_nothing_is_rescued_while_slots_are_free(alone: MakeAlone) -> None:
    """As in production: leases and republishing are nets far below what is normal."""
    with alone("w1", "w2", worker_slots=50, lease_seconds=30.0, republish_seconds=10.0) as house:
        tasks = [
            house.submit(fan(3, 20, lambda key: {"agent": "echo", "input": {"key": key}})),
            house.submit(fan(2, 10, lambda key: {"agent": "echo_reviewed", "input": {"value": key}})),
            house.submit(fan(2, 5, lambda key: {"agent": "sleep", "input": {"seconds": 0.2}})),
            house.submit([{"id": "fails", "agent": "fail", "input": {"times": 2}}]),
        ]
        for task_id in tasks:
            house.wait(task_id)
        assert house.rescues() == Rescues(expired=0, recovered=0, republished=0)
        (waited,) = house.query(
            """select max(extract(epoch from a.started_at - s.ready_at))::float8 as seconds from steps s
            join attempts a on a.step_id = s.id where s.task_id = any(%(ids)s)""",
            ids=tasks,
        )
        assert waited["seconds"] < WAIT_SECONDS
        assert house.violations() == []


def test_a_backlog_is_republished_and_counted_apart(alone: MakeAlone) -> None:
    with alone("w1", worker_slots=2, lease_seconds=30.0, republish_seconds=0.5) as house:
        naps = [{"id": f"s{number}", "agent": "sleep", "input": {"seconds": 0.5}} for number in range(12)]
        house.wait(house.submit(naps))
        found = house.rescues()
        assert (found.expired, found.recovered) == (0, 0)
        assert found.republished > 0


def test_the_counts_do_count(alone: MakeAlone) -> None:
    """What a supervisor does about a death that it saw is not the sweeper's rescue."""
    with alone("w1", lease_seconds=5.0) as house:
        first = house.submit([{"id": "hangs", "agent": "hang", "input": {}}])
        house.until(lambda: house.running(first), "it runs")
        house.kill("w1")
        house.until(lambda: house.rescues()[:2] == (1, 1), "its lease expires and is recovered")
        cancel(house.engine, "default", first, "tester")
        house.start_workers("w2")
        second = house.submit([{"id": "hangs", "agent": "hang", "input": {}}])
        house.until(lambda: house.running(second), "it runs")
        house.kill("w2")
        house.expire("w2")
        assert house.rescues()[:2] == (2, 1)
