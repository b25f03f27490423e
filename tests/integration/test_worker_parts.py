"""The parts of a worker process that hold it together: the batcher and the heartbeat, on a real database."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Engine

from contracts.assignments import Assignment
from contracts.errors import Failure
from contracts.messages import StepRef
from contracts.settlements import Accept, Propose, Return
from contracts.topology import QUEUE_OF_ROLE
from shared_state import sweep, tasks
from shared_state.attempts import Settling
from shared_state.engine import make_engine
from shared_state.outbox import Wakeup
from tests.integration.driver import Driver
from workers.batcher import Batcher, Written
from workers.crew import Crew
from workers.heartbeat import Heartbeat, StopReason
from workers.slots import Slots


@pytest.fixture
def driver(engine: Engine) -> Driver:
    return Driver(engine)


def eventually(done: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "not in time"
        threading.Event().wait(0.02)


class Waiting:
    """A batcher whose answers are waited for."""

    def __init__(self, engine: Engine, *, slots: int = 100, queues: tuple[str, ...] = tuple(QUEUE_OF_ROLE.values())):
        self.slots = Slots(slots)
        self.published: list[Wakeup] = []
        self.batcher = Batcher(
            engine, worker="w1", queues=queues, slots=self.slots, lease_seconds=30, publish=self.published.extend
        )

    def claim(self, named: list[StepRef]) -> list[Assignment]:
        answers: SimpleQueue[Any] = SimpleQueue()
        self.batcher.claim(named, answers.put)
        return list(raised(answers.get(timeout=10)).assignments)

    def settle(self, settling: Settling) -> bool:
        return self.settle_and_take_on(settling, take_on=False).done

    def settle_and_take_on(self, settling: Settling, *, take_on: bool = True) -> Written:
        answers: SimpleQueue[Any] = SimpleQueue()
        self.batcher.settle(settling, answers.put, take_on=take_on)
        return raised(answers.get(timeout=10))


def raised(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise answer
    return answer


@pytest.fixture
def batcher(driver: Driver) -> Any:
    waiting = Waiting(driver.engine)
    yield waiting
    waiting.batcher.stop()


def refs(driver: Driver) -> list[StepRef]:
    return [StepRef(id=row["step_id"], epoch=row["epoch"]) for row in driver.ready()]


def test_two_messages_that_name_one_step_do_not_both_get_it(driver: Driver, batcher: Waiting) -> None:
    driver.submit([{"id": f"s{n}"} for n in range(20)])
    named = refs(driver)
    with ThreadPoolExecutor(8) as pool:
        got = [each.key for answer in pool.map(lambda _: batcher.claim(named), range(8)) for each in answer]
    assert sorted(got) == sorted(f"s{n}" for n in range(20))
    driver.query("update steps set lease_until = clock_timestamp() - interval '1 s' where lease_until is not null")
    sweep.sweep(driver.engine)


def test_who_comes_while_nobody_writes_writes_and_the_rest_is_written_together(
    driver: Driver, batcher: Waiting
) -> None:
    task_id = driver.submit([{"id": f"s{n}"} for n in range(4)])
    first, *rest = batcher.claim(refs(driver))
    answers: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    at_once: list[int] = []

    def answer(written: Any) -> None:
        answers.put((threading.current_thread().name, written))

    def settle_the_rest(written: Any) -> None:
        """Asked for while their asker still has the right to write."""
        answer(written)
        for each in rest:
            batcher.batcher.settle(Settling(each, Accept(output=1)), answer)
        at_once.append(answers.qsize())

    batcher.batcher.settle(Settling(first, Accept(output=1)), settle_the_rest)
    assert at_once == [1]  # answered before `settle` was over; the others not yet
    name, written = answers.get(timeout=0)
    assert name == threading.current_thread().name
    assert raised(written).done
    others = [answers.get(timeout=10) for _ in rest]
    assert [(name, raised(written).done) for name, written in others] == [("batcher", True)] * 3
    together = driver.query("select distinct finished_at_xid from (select xmin as finished_at_xid from outputs) o")
    assert len(together) == 2  # transactions
    assert set(driver.states(task_id).values()) == {"succeeded"}


def test_a_stop_leaves_nothing_that_has_arrived(driver: Driver, batcher: Waiting) -> None:
    driver.submit([{"id": f"s{n}"} for n in range(3)])
    first, second, third = batcher.claim(refs(driver))
    answers: SimpleQueue[Any] = SimpleQueue()
    stopping = threading.Thread(target=batcher.batcher.stop)

    def stop_meanwhile(_: Any) -> None:
        batcher.batcher.settle(Settling(second, Accept(output=1)), answers.put)
        stopping.start()
        eventually(batcher.batcher._stopped.is_set)

    batcher.batcher.settle(Settling(first, Accept(output=1)), stop_meanwhile)
    stopping.join(10)
    assert raised(answers.get(timeout=0)).done
    batcher.batcher.settle(Settling(third, Accept(output=1)), answers.put)
    assert answers.empty()
    assert driver.query("select count(*) as n from outputs")[0]["n"] == 2
    driver.query("update steps set lease_until = clock_timestamp() - interval '1 s' where lease_until is not null")
    sweep.sweep(driver.engine)


def test_one_settlement_that_cannot_be_stored_does_not_stop_its_neighbours(driver: Driver, batcher: Waiting) -> None:
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
    assert answers[3] == "UntranslatableCharacter"
    assert sorted(driver.states(task_id).values()) == ["running"] + ["succeeded"] * 5
    assert batcher.settle(Settling(claimed[3], Accept(output="mended")))


def test_a_settlement_whose_answer_was_lost_counts_as_written(driver: Driver, batcher: Waiting) -> None:
    driver.submit([{"id": "a"}])
    (a,) = batcher.claim(refs(driver))
    assert driver.settle(a)[0]  # as if an earlier COMMIT of the same settlement had gone through unseen
    assert batcher.settle(Settling(a, Accept(output={"from": "a"})))


def test_a_zombies_settlement_does_not_count_as_written(driver: Driver, batcher: Waiting) -> None:
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


def chain(driver: Driver, count: int) -> None:
    driver.submit([{"id": "s0"}, *({"id": f"s{n}", "needs": [f"s{n - 1}"]} for n in range(1, count))])


def test_a_settlement_takes_on_what_it_made_ready(driver: Driver, batcher: Waiting) -> None:
    chain(driver, 3)
    (first,) = batcher.claim(refs(driver))
    written = batcher.settle_and_take_on(Settling(first, Accept(output=1)))
    assert written.done
    (second,) = written.taken_on.assignments
    assert (second.key, second.inputs) == ("s1", {"s0": 1})
    assert not batcher.published
    assert not refs(driver)
    third = batcher.settle_and_take_on(Settling(second, Accept(output=2)), take_on=False)
    assert not third.taken_on.assignments
    assert [each.step_id for each in batcher.published] == [each.id for each in refs(driver)]


def test_a_stale_settlement_takes_nothing_on(driver: Driver, batcher: Waiting) -> None:
    chain(driver, 2)
    (first,) = batcher.claim(refs(driver))
    driver.lapse()
    sweep.sweep(driver.engine)
    written = batcher.settle_and_take_on(Settling(first, Accept(output=1)))
    assert not written.done
    assert not written.taken_on.assignments


def test_a_step_that_failed_is_left_to_others(driver: Driver, batcher: Waiting) -> None:
    driver.submit([{"id": "a"}])
    (a,) = batcher.claim(refs(driver))
    failed = Return(failure=Failure(code="agent.error", text="no"))
    written = batcher.settle_and_take_on(Settling(a, failed))
    assert written.done
    assert not written.taken_on.assignments
    assert [each.step_id for each in batcher.published] == [a.step_id]


def test_steps_of_queues_that_this_worker_does_not_serve_are_published(driver: Driver) -> None:
    executor = Waiting(driver.engine, queues=("execute",))
    driver.submit([{"id": "a", "review": "judge"}])
    try:
        (a,) = executor.claim(refs(driver))
        written = executor.settle_and_take_on(Settling(a, Propose(output=1)))
        assert written.done
        assert not written.taken_on.assignments
        assert [each.kind for each in executor.published] == ["review"]
    finally:
        executor.batcher.stop()


@pytest.mark.parametrize(("slots", "peers", "taken"), [(50, 1, 30), (50, 3, 10), (5, 1, 6), (0, 2, 1)])
def test_of_many_steps_a_worker_takes_on_its_share_as_far_as_slots_are_free(
    driver: Driver, slots: int, peers: int, taken: int
) -> None:
    waiting = Waiting(driver.engine, slots=slots)
    waiting.batcher.peers = peers
    driver.submit([{"id": "first"}, *({"id": f"s{n}", "needs": ["first"]} for n in range(30))])
    try:
        (first,) = waiting.claim(refs(driver))
        written = waiting.settle_and_take_on(Settling(first, Accept(output=1)))
        assert len(written.taken_on.assignments) == taken
        assert waiting.slots.free == slots - (taken - 1)  # one goes on in the slot of the step that was settled
        published = {each.step_id for each in waiting.published}
        assert published.isdisjoint(each.step_id for each in written.taken_on.assignments)
    finally:
        waiting.batcher.stop()


def test_slots_are_taken_as_they_are_free() -> None:
    slots = Slots(3)
    told: list[int] = []
    slots.on_free = lambda: told.append(slots.free)
    assert slots.take(2) == 2
    assert slots.take(5) == 1
    assert slots.take(1) == 0
    slots.give(0)
    slots.give(2)
    assert told == [2]
    assert slots.take(5) == 2
    assert slots.free == 0


def test_the_crew_runs_everything_at_once_where_it_has_to() -> None:
    crew = Crew()
    together = threading.Barrier(21)
    try:
        crew.put([lambda: together.wait(10)] * 20)
        together.wait(10)  # only when all twenty wait as well
        count: SimpleQueue[int] = SimpleQueue()
        for _ in range(50):
            crew.put([lambda: count.put(1)] * 20)
        assert sum(count.get(timeout=10) for _ in range(1000)) == 1000
    finally:
        crew.close()


def test_what_the_end_of_a_work_brings_is_taken_up_by_its_own_thread() -> None:
    crew = Crew()
    threads: SimpleQueue[int] = SimpleQueue()

    def first() -> None:
        crew.put([lambda: threads.put(threading.get_ident())])
        threading.Event().wait(0.2)  # time for another thread to come, if one was called
        threads.put(threading.get_ident())

    try:
        crew.put([first])
        assert threads.get(timeout=10) == threads.get(timeout=10)
    finally:
        crew.close()


def test_who_was_called_and_has_not_come_is_not_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    crew = Crew()
    hired: list[Any] = []
    done: SimpleQueue[int] = SimpleQueue()
    monkeypatch.setattr(
        "workers.crew.threading.Thread",
        lambda **options: SimpleNamespace(start=lambda: hired.append(options["target"])),
    )
    for number in range(5):
        crew.put([partial(done.put, number)])
    assert len(hired) == 1
    monkeypatch.undo()
    threading.Thread(target=hired.pop(), daemon=True).start()
    assert sorted(done.get(timeout=10) for _ in range(5)) == list(range(5))
    crew.close()


def test_where_there_are_no_more_threads_the_next_call_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    crew = Crew()
    done: SimpleQueue[int] = SimpleQueue()

    def refuse(**_: Any) -> Any:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr("workers.crew.threading.Thread", refuse)
        crew.put([partial(done.put, 1)])
    crew.put([partial(done.put, 2)])
    assert sorted(done.get(timeout=10) for _ in range(2)) == [1, 2]
    crew.close()
