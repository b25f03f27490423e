"""Delivery with all its real parts on a real Postgres: how many steps run, where the others go, how each one ends."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine
from structlog.testing import capture_logs

from contracts.messages import Message, SigningKeys, StepRef, encode
from contracts.plans import Plan
from contracts.settlements import Propose
from contracts.teams import Agent, Isolation, RetryRule, Team
from contracts.testing import HeldArtifacts
from contracts.topology import QUEUE_OF_ROLE, MessageKind
from shared_state.engine import make_engine, new_id, transaction
from shared_state.outbox import Wakeup, hand_back, messages_for, relay
from shared_state.statements import query
from shared_state.tasks import Submission
from shared_state.teams import apply
from shared_state.teams_cache import TeamsCache
from tests.integration.bodies import read
from tests.integration.driver import Driver
from workers.batcher import Batcher
from workers.delivery import CHAIN_LIMIT, Delivery, House
from workers.heartbeat import Heartbeat
from workers.isolation import AttemptRunner
from workers.line import PATIENCE_SECONDS
from workers.slots import Slots

BODIES = "tests.integration.bodies"
KEYS = SigningKeys({"test": b"a secret of the tests"})
HANG_SECONDS = 0.5
TEAM = Team(
    name="delivered",
    agents={
        "hold": Agent(call=f"{BODIES}:hold", isolation=Isolation.THREAD),
        "apart": Agent(call=f"{BODIES}:hold", isolation=Isolation.PROCESS),
        "hang": Agent(call=f"{BODIES}:hold", isolation=Isolation.THREAD, timeout_seconds=HANG_SECONDS),
        "misprint": Agent(call=f"{BODIES}:hold", isolation=Isolation.THREAD, gates=(f"{BODIES}:misprint",)),
        "reviewed": Agent(call=f"{BODIES}:hold", isolation=Isolation.THREAD, review="judge"),
        "judge": Agent(call=f"{BODIES}:judge", isolation=Isolation.THREAD, role="reviewer"),
    },
    retry={"default": RetryRule(attempts=1)},
)
LATE_SECONDS = 20.0
"""When a test gives up waiting for something that should happen soon."""


class Publisher:
    """A broker that keeps what it is given: the test delivers it."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def publish(self, messages: Sequence[Message]) -> None:
        self.messages.extend(messages)

    def take(self) -> list[Message]:
        taken, self.messages = self.messages, []
        return taken


class Worker:
    """One worker process's parts around its delivery, without Celery."""

    def __init__(self, engine: Engine, folder: Path, *, slots: int = 4, peers: int = 1) -> None:
        self.driver = Driver(engine)
        apply(engine, "default", TEAM)
        self.folder = folder
        self.publisher = Publisher()
        self.slots = Slots(slots)
        self.runner = AttemptRunner()
        self.teams: Callable[[str, str], Team] = partial(TeamsCache().get, engine)
        self._engine = engine
        self._batcher = Batcher(
            engine, worker="w1", queues=QUEUE_OF_ROLE.values(), slots=self.slots, lease_seconds=30,
            publish=self._publish,
        )  # fmt: skip
        self._batcher.peers = peers
        self._heartbeat = Heartbeat(engine, lease_seconds=30)
        artifacts = HeldArtifacts()
        self.delivery = Delivery(
            House(
                keys=KEYS,
                batcher=self._batcher,
                heartbeat=self._heartbeat,
                runner=self.runner,
                slots=self.slots,
                teams=lambda tenant, digest: self.teams(tenant, digest),
                artifacts=lambda tenant: artifacts,
                hand_back=partial(hand_back, engine),
            )
        )

    def submit(self, steps: Sequence[dict[str, Any]]) -> UUID:
        plan = {"steps": [{"agent": "hold", "input": {"folder": str(self.folder)}, **step} for step in steps]}
        return self.driver.created(Submission(team="delivered", plan=Plan.model_validate(plan)))

    def deliver(self, message: Message | None = None) -> "Future[None]":
        """Handle a message; without one, a message that names all that is ready."""
        handled: Future[None] = Future()
        self.delivery.handle(encode(message or named(self.driver), KEYS), lambda: handled.set_result(None))
        return handled

    def relayed(self) -> list[Message]:
        """What the relay publishes now."""
        relay(self._engine, self.publisher, republish_seconds=3600, window=1000)
        return self.publisher.take()

    def open(self, key: str | None = None) -> None:
        """Let the step of this key end; all of them, without."""
        (self.folder / ("open" if key is None else f"open-{key}")).touch()

    def begun(self) -> list[str]:
        return read(self.folder / "begun")

    def wait_begun(self, *keys: str) -> None:
        self.until(lambda: set(keys) <= set(self.begun()))

    def until(self, done: Callable[[], object]) -> None:
        deadline = time.monotonic() + LATE_SECONDS
        while not done():
            assert time.monotonic() < deadline, f"not in time; begun: {self.begun()}"
            threading.Event().wait(0.01)

    def attempts(self, task_id: UUID) -> dict[str, list[tuple[str, str | None]]]:
        """State and failure code of each step's attempts."""
        rows = self.driver.query(
            """select s.key, array_agg(array[a.state, a.error ->> 'code'] order by a.epoch) as attempts
            from attempts a join steps s on s.id = a.step_id where s.task_id = %(id)s group by s.key""",
            id=task_id,
        )
        return {row["key"]: [(state, code) for state, code in row["attempts"]] for row in rows}

    def close(self) -> None:
        self.open()
        self.delivery.drain()
        self._batcher.stop()
        self.delivery.close()
        self._heartbeat.stop()
        self.runner.close()

    def _publish(self, wakeups: list[Wakeup]) -> None:
        self.publisher.publish(messages_for(wakeups))


MakeWorker = Callable[..., Worker]


@pytest.fixture
def make_worker(engine: Engine, tmp_path: Path) -> Iterator[MakeWorker]:
    made: list[Worker] = []

    def make(**options: Any) -> Worker:
        made.append(Worker(engine, tmp_path, **options))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


def named(driver: Driver, task_id: UUID | None = None) -> Message:
    """A message that names what is ready, of one task or of all."""
    rows = [row for row in driver.ready() if task_id in (None, row["task_id"])]
    steps = tuple(StepRef(id=row["step_id"], epoch=row["epoch"]) for row in rows)
    return Message(id=new_id(), kind=MessageKind.EXECUTE, queue="execute", steps=steps)


def chain(count: int) -> list[dict[str, Any]]:
    return [{"id": "s0"}, *({"id": f"s{n}", "needs": [f"s{n - 1}"]} for n in range(1, count))]


def crowd(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"id": f"s{n}", **fields} for n in range(count)]


def test_after_so_many_steps_in_a_row_the_next_is_published(make_worker: MakeWorker) -> None:
    worker = make_worker()
    worker.open()
    task_id = worker.submit(chain(CHAIN_LIMIT + 2))
    worker.deliver().result(LATE_SECONDS)
    assert worker.begun() == [f"s{n}" for n in range(CHAIN_LIMIT)]
    assert worker.driver.states(task_id)[f"s{CHAIN_LIMIT}"] == "ready"
    (message,) = worker.publisher.take()
    assert [each.id for each in message.steps] == [row["step_id"] for row in worker.driver.ready()]
    assert worker.slots.free == 4

    worker.deliver(message).result(LATE_SECONDS)
    assert worker.driver.task(task_id)["state"] == "succeeded"
    assert not worker.publisher.messages


def test_steps_that_find_no_slot_are_handed_back(make_worker: MakeWorker) -> None:
    worker = make_worker(slots=2)
    task_id = worker.submit(crowd(5))
    began = time.monotonic()
    handled = worker.deliver()
    worker.wait_begun("s0", "s1")
    # Published long since; only what is handed back is there for the relay.
    assert worker.relayed() == []
    messages: list[Message] = []
    worker.until(lambda: messages.extend(worker.relayed()) or messages)
    assert time.monotonic() - began >= PATIENCE_SECONDS
    assert len({step.id for message in messages for step in message.steps}) == 3
    assert sorted(worker.driver.states(task_id).values()) == ["ready"] * 3 + ["running"] * 2
    assert not handled.done(), "its own two still run"

    worker.open()
    handled.result(LATE_SECONDS)
    for each in [worker.deliver(message) for message in messages]:
        each.result(LATE_SECONDS)
    assert worker.driver.task(task_id)["state"] == "succeeded"
    assert sorted(worker.begun()) == [f"s{n}" for n in range(5)]
    assert worker.attempts(task_id) == {f"s{n}": [("succeeded", None)] for n in range(5)}


@pytest.mark.parametrize("agent", ["hold", "apart"])
def test_a_drain_ends_what_runs_and_hands_back_the_rest(
    make_worker: MakeWorker, agent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.line.PATIENCE_SECONDS", 10 * LATE_SECONDS)  # nor does it wait for any slot
    worker = make_worker(slots=2)
    task_id = worker.submit([*crowd(5, agent=agent), {"id": "after", "needs": ["s0"], "agent": agent}])
    handled = worker.deliver()
    worker.wait_begun("s0", "s1")
    late = worker.submit(crowd(2))
    worker.delivery.drain()
    worker.deliver(named(worker.driver, late)).result(LATE_SECONDS)
    worker.open()  # two slots come free while the handler still waits for some
    handled.result(LATE_SECONDS)
    assert sorted(worker.begun()) == ["s0", "s1"]
    assert worker.attempts(task_id) == {key: [("succeeded", None)] for key in ("s0", "s1")}
    states = worker.driver.states(task_id)
    assert {states[key] for key in ("s2", "s3", "s4", "after")} == {"ready"}
    # What a step that ended has made ready is published, what the message named is the relay's.
    assert sum(len(message.steps) for message in worker.publisher.take()) == 1
    assert sum(len(message.steps) for message in worker.relayed()) == 3 + 2
    assert set(worker.driver.states(late).values()) == {"ready"}
    assert worker.slots.free == 2


@pytest.mark.parametrize("agent", ["hold", "reviewed"])
def test_a_step_whose_team_cannot_be_read_is_put_off(make_worker: MakeWorker, agent: str) -> None:
    worker = make_worker()
    there = worker.teams
    away = make_engine("postgresql://nobody@127.0.0.1:1/none", pool_size=1)
    worker.open()
    task_id = worker.submit([{"id": "a", "agent": agent}])
    if agent == "reviewed":  # it is its review that has to wait
        (row,) = worker.driver.claim()
        worker.driver.settle(row, Propose(output=row.key))
    worker.teams = partial(TeamsCache().get, away)
    worker.deliver().result(LATE_SECONDS)
    assert worker.attempts(task_id)["a"][-1] == ("failed", "worker.stopped")
    assert worker.driver.states(task_id) == {"a": "reviewing" if agent == "reviewed" else "ready"}
    (row,) = worker.driver.query("select attempt_count from steps where task_id = %(id)s", id=task_id)
    assert row["attempt_count"] == 0, "it did nothing wrong"
    assert worker.slots.free == 4
    (message,) = worker.publisher.take()

    worker.teams = there
    worker.deliver(message).result(LATE_SECONDS)
    assert worker.attempts(task_id)["a"][-1] == ("succeeded", None)
    away.dispose()


def test_a_thread_that_hangs_is_left_behind(make_worker: MakeWorker) -> None:
    worker = make_worker()
    task_id = worker.submit([{"id": "hung", "agent": "hang"}, {"id": "kept"}])
    worker.open("kept")
    began = time.monotonic()
    worker.deliver().result(LATE_SECONDS)
    assert HANG_SECONDS <= time.monotonic() - began < HANG_SECONDS + 5
    assert worker.attempts(task_id) == {"hung": [("failed", "bound.time")], "kept": [("succeeded", None)]}
    assert worker.driver.states(task_id) == {"hung": "dead", "kept": "succeeded"}
    assert worker.slots.free == 4
    assert worker.runner.abandoned_count == 1

    worker.open()
    worker.until(lambda: worker.runner.abandoned_count == 0)
    # By the end of these the database thread has seen whatever came of it.
    worker.submit(chain(4))
    worker.deliver().result(LATE_SECONDS)
    assert worker.slots.free == 4, "its slot was given back before"
    assert worker.attempts(task_id)["hung"] == [("failed", "bound.time")]


def test_an_agent_that_the_team_does_not_have_ends_the_step(make_worker: MakeWorker) -> None:
    worker = make_worker()
    worker.open()
    task_id = worker.submit([{"id": "a", "agent": "hang"}, {"id": "b"}])
    without = TEAM.model_copy(update={"agents": {name: a for name, a in TEAM.agents.items() if name != "hang"}})
    worker.teams = lambda tenant, digest: without
    worker.deliver().result(LATE_SECONDS)
    assert worker.attempts(task_id) == {"a": [("failed", "agent.unknown")], "b": [("succeeded", None)]}
    assert worker.driver.states(task_id) == {"a": "dead", "b": "succeeded"}
    assert worker.slots.free == 4


def test_what_postgres_cannot_store_fails_alone(make_worker: MakeWorker, engine: Engine) -> None:
    worker = make_worker(slots=6)
    keys = ["first", "bad", *(f"s{n}" for n in range(4))]
    task_id = worker.submit([{"id": key, "agent": "misprint"} for key in keys])
    with capture_logs() as said:
        handled = worker.deliver()
        worker.wait_begun(*keys)
        with transaction(engine) as connection:
            # The database thread waits for this row: what ends meanwhile is settled together.
            query(connection, "select from steps where task_id = %(id)s and key = 'first' for update", id=task_id)
            worker.open("first")
            waiting = "select count(*) as n from pg_stat_activity where wait_event_type = 'Lock' and datname = %(name)s"
            worker.until(lambda: worker.driver.query(waiting, name=engine.url.database)[0]["n"])
            worker.open()
            worker.until(lambda: len(read(worker.folder / "checked")) == len(keys))
        handled.result(LATE_SECONDS)
    assert [each["event"] for each in said].count("settle.refused") == 1
    assert worker.attempts(task_id) == {key: [("succeeded", None)] for key in keys} | {"bad": [("failed", "internal")]}
    assert worker.driver.states(task_id)["bad"] == "dead"
    assert worker.slots.free == 6


@pytest.mark.parametrize(("peers", "share"), [(1, 16), (3, 6)])
def test_of_what_becomes_ready_together_a_worker_takes_its_share(
    make_worker: MakeWorker, peers: int, share: int
) -> None:
    worker = make_worker(slots=20, peers=peers)
    worker.open()
    task_id = worker.submit([{"id": "first"}, *crowd(16, needs=["first"])])
    worker.deliver().result(LATE_SECONDS)
    assert len(worker.begun()) == 1 + share
    published = [step.id for message in worker.publisher.take() for step in message.steps]
    assert sorted(published) == sorted(row["step_id"] for row in worker.driver.ready())
    assert len(published) == 16 - share
    assert worker.slots.free == 20
    assert list(worker.driver.states(task_id).values()).count("succeeded") == 1 + share
