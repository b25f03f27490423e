"""What waits costs nothing: a thousand questions and a thousand backoffs hold no slot, no thread, no connection."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import psutil
import pytest

from contracts.plans import Plan
from shared_state import outbox
from shared_state.questions import answer
from shared_state.tasks import Created, Submission, submit

from .conftest import MakeHouse
from .house import House, Step
from .patience import team

COUNT = 1000
WORKERS = ("w1", "w2")
SLOTS = 8
ASK: Step = {"id": "ask", "agent": "ask", "input": {}}
LATER: Step = {"id": "later", "agent": "later", "input": {}}
NAP: Step = {"id": "nap", "agent": "nap", "input": {}}


@dataclass(frozen=True)
class Held:
    """By the workers: threads of their processes, connections to the database and how many of those do something."""

    threads: int
    connections: int
    at_work: int


@pytest.fixture(scope="module")
def house(make_house: MakeHouse) -> House:
    # No lease lapses and nothing is published anew on a machine that is slow: waiting is what is looked at.
    house = make_house(*WORKERS, worker_slots=SLOTS, lease_seconds=30.0, republish_seconds=30.0)
    house.apply(team())
    return house


def test_what_waits_holds_nothing(house: House) -> None:
    # All slots have worked at once, and what they needed for it is kept.
    for task_id in begin(house, NAP, 20 * SLOTS):
        house.wait(task_id)
    await_waiting(house, begin(house, ASK, 10 * SLOTS) + begin(house, LATER, 10 * SLOTS))
    idle = held(house)

    asked, delayed = begin(house, ASK, COUNT), begin(house, LATER, COUNT)
    await_waiting(house, asked + delayed)
    house.until(lambda: busy(house) == [0, 0], "both workers have said that they do nothing", 15)
    house.until(lambda: held(house).at_work == 0, "no connection of theirs is in a transaction", 5)
    now = held(house)
    # Pools fill up as they are needed: a thread of Celery's and one of ours a slot. What is held would be two thousand.
    assert now.threads <= idle.threads + 2 * SLOTS * len(WORKERS)
    assert now.connections <= idle.connections + SLOTS * len(WORKERS)
    rows = house.query("select count(*) as leases from steps where lease_until is not null")
    assert rows[0]["leases"] == 0
    assert house.query("select count(*) as messages from outbox")[0]["messages"] == 0
    assert house.query("select count(*) as running from attempts where state = 'running'")[0]["running"] == 0

    for task_id in asked[:20]:
        question = house.query("select id from questions where task_id = %(id)s", id=task_id)[0]["id"]
        outbox.publish(house.publisher, answer(house.engine, "default", question, "yes", "tester"))
    # An hour later, as far as these are concerned.
    house.query("update steps set due_at = clock_timestamp() where task_id = any(%(ids)s)", ids=delayed[:20])
    for task_id in asked[:20] + delayed[:20]:
        house.wait(task_id, 20)
    assert waiting(house, asked + delayed) == 2 * COUNT - 40
    assert house.rescues()[:2] == (0, 0), house.rescues()
    assert house.violations() == []


def begin(house: House, step: Step, count: int) -> list[UUID]:
    """So many tasks of that one step."""
    submission = Submission(team="patience", plan=Plan.model_validate({"steps": [step]}))
    submitted = submit(house.engine, "default", [submission] * count)
    outbox.publish(house.publisher, submitted.wakeups)
    return [result.task_id for result in submitted.results if isinstance(result, Created)]


def await_waiting(house: House, task_ids: Sequence[UUID]) -> None:
    """Until every one has asked, or been told to wait."""
    house.until(lambda: waiting(house, task_ids) == len(task_ids), f"{len(task_ids)} tasks wait", 90)


def waiting(house: House, task_ids: Sequence[UUID]) -> int:
    """How many have an open question or a backoff that is not over."""
    sql = """select count(*) as found from steps s where s.task_id = any(%(ids)s) and (s.due_at is not null
        or exists (select 1 from questions q where q.step_id = s.id and q.state = 'open'))"""
    found: int = house.query(sql, ids=list(task_ids))[0]["found"]
    return found


def busy(house: House) -> list[int]:
    """As each worker has reported it since its last attempt ended."""
    sql = """select busy from workers where name = any(%(names)s)
        and seen_at > (select max(finished_at) from attempts where worker = workers.name)"""
    return [row["busy"] for row in house.query(sql, names=list(WORKERS))]


def held(house: House) -> Held:
    rows = house.query(
        """select state from pg_stat_activity
        where datname = current_database() and application_name = any(%(names)s)""",
        names=[f"worker {name}" for name in WORKERS],
    )
    threads = sum(psutil.Process(house.pid(name)).num_threads() for name in WORKERS)
    return Held(threads, len(rows), sum(row["state"] != "idle" for row in rows))
