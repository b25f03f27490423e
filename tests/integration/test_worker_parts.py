"""The parts of a worker process that hold it together: the batcher and the heartbeat, on a real database."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine

from contracts.messages import StepRef
from contracts.settlements import Accept
from shared_state import sweep, tasks
from shared_state.attempts import Settling
from shared_state.engine import make_engine
from tests.integration.driver import Driver
from workers.batcher import Batcher
from workers.heartbeat import Heartbeat, StopReason


@pytest.fixture
def driver(engine: Engine) -> Driver:
    return Driver(engine)


def eventually(done: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "not in time"
        threading.Event().wait(0.02)


@pytest.fixture
def batcher(driver: Driver) -> Any:
    published: list[Any] = []
    batcher = Batcher(driver.engine, worker="w1", lease_seconds=30, publish=published.extend)
    yield batcher
    batcher.stop()


def refs(driver: Driver) -> list[StepRef]:
    return [StepRef(id=row["step_id"], epoch=row["epoch"]) for row in driver.ready()]


def test_two_messages_that_name_one_step_do_not_both_get_it(driver: Driver, batcher: Batcher) -> None:
    driver.submit([{"id": f"s{n}"} for n in range(20)])
    named = refs(driver)
    with ThreadPoolExecutor(8) as pool:
        got = [each.key for answer in pool.map(lambda _: batcher.claim(named), range(8)) for each in answer]
    assert sorted(got) == sorted(f"s{n}" for n in range(20))
    driver.query("update steps set lease_until = clock_timestamp() - interval '1 s' where lease_until is not null")
    sweep.sweep(driver.engine)


def test_one_settlement_that_cannot_be_stored_does_not_stop_its_neighbours(driver: Driver, batcher: Batcher) -> None:
    task_id = driver.submit([{"id": f"s{n}"} for n in range(6)])
    claimed = batcher.claim(refs(driver))

    def settle(n: int) -> Any:
        output = "\x00" if n == 3 else n  # Postgres cannot store NUL in jsonb
        try:
            return batcher.settle(Settling(claimed[n], Accept(output=output)))
        except Exception as error:
            return type(error).__name__

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(settle, range(6)))
    assert [answer for n, answer in enumerate(answers) if n != 3] == [True] * 5
    assert answers[3] == "DataError"
    assert sorted(driver.states(task_id).values()) == ["running"] + ["succeeded"] * 5
    assert batcher.settle(Settling(claimed[3], Accept(output="mended")))


def test_a_settlement_whose_answer_was_lost_counts_as_written(driver: Driver, batcher: Batcher) -> None:
    driver.submit([{"id": "a"}])
    (a,) = batcher.claim(refs(driver))
    assert driver.settle(a)[0]  # as if an earlier COMMIT of the same settlement had gone through unseen
    assert batcher.settle(Settling(a, Accept(output={"from": "a"})))


def test_a_zombies_settlement_does_not_count_as_written(driver: Driver, batcher: Batcher) -> None:
    driver.submit([{"id": "a"}])
    (a,) = batcher.claim(refs(driver))
    driver.lapse()
    sweep.sweep(driver.engine)
    assert not batcher.settle(Settling(a, Accept(output=1)))


def test_a_lost_lease_and_a_cancelled_task_stop_the_work(driver: Driver) -> None:
    cancelled_task = driver.submit([{"id": "cancelled"}])
    driver.submit([{"id": "lost"}, {"id": "kept"}])
    (lost,) = driver.claim("lost")
    driver.lapse()
    sweep.sweep(driver.engine)
    (cancelled,), (kept,) = driver.claim("cancelled"), driver.claim("kept")
    heartbeat = Heartbeat(driver.engine, lease_seconds=4)
    try:
        leases = [heartbeat.hold(each) for each in (lost, cancelled, kept)]
        tasks.cancel(driver.engine, "default", cancelled_task, "me")
        eventually(lambda: leases[0].stop.is_set() and leases[1].stop.is_set())
        assert (leases[0].reason, leases[1].reason) == (StopReason.LOST, StopReason.CANCELLED)
        assert not leases[2].stop.is_set()
    finally:
        heartbeat.stop()


def test_a_worker_that_is_cut_off_stops_its_work_before_its_lease_ends(driver: Driver, engine: Engine) -> None:
    driver.submit([{"id": "a"}])
    (a,) = driver.claim(lease_seconds=2)
    nowhere = make_engine("postgresql://nobody@127.0.0.1:1/none", pool_size=1)
    heartbeat = Heartbeat(nowhere, lease_seconds=2)
    try:
        began = time.monotonic()
        lease = heartbeat.hold(a)
        assert lease.stop.wait(5)
        assert time.monotonic() - began < 2
        assert lease.reason is StopReason.LOST
    finally:
        heartbeat.stop()
        nowhere.dispose()
