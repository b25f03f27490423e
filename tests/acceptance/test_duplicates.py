"""Every message ten times, in random order: each step is done once, and what refusing the rest costs is printed.

And a blip of all connections, to Redis and to Postgres, with a hundred steps in flight: every message is delivered
again, and no body runs twice. `ORCHESTRATOR_TEST_LONG=1` takes ten thousand messages instead of some hundred.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import psutil
import psycopg
import pytest

from contracts.messages import Message, StepRef
from contracts.plans import Plan
from contracts.topology import MessageKind
from shared_state.engine import new_id
from shared_state.tasks import Created, Submission, submit

from ..brokers import RedisBroker, TestBroker
from .conftest import MakeHouse
from .house import LOOPS, House
from .ledger import Ledger, team

LONG = os.environ.get("ORCHESTRATOR_TEST_LONG") == "1"
MESSAGES = 10_000 if LONG else 500
TIMES = 10
IN_FLIGHT = 100
WORKERS = ("w1", "w2")
QUEUE = "execute"


@pytest.fixture(scope="module")
def house(make_house: MakeHouse) -> House:
    """No loops: whatever is delivered is what these tests have published, or what the broker gives back."""
    house = make_house(lease_seconds=10.0)
    house.kill(LOOPS)
    house.apply(team())
    return house


class Spent(NamedTuple):
    """CPU seconds of the workers, and of those backends of Postgres that claim for them; transactions committed."""

    workers: float
    backends: float
    commits: int


@pytest.mark.timeout(600 if LONG else 120)
def test_a_message_delivered_ten_times_is_done_once(
    house: House, broker_of_choice: TestBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    task_id, messages = begin(house, ledger, MESSAGES)
    copies = messages * TIMES
    seed = random.randrange(2**32)
    random.Random(seed).shuffle(copies)
    house.publisher.publish(copies)
    began = time.monotonic()
    house.start_workers(*WORKERS)
    house.wait(task_id, 300)
    house.until(lambda: broker_of_choice.waiting() == 0, "every copy is delivered and acknowledged", 300)
    seconds = time.monotonic() - began
    check_once(house, task_id, ledger, MESSAGES)

    # Now every step is done, so all that comes is refused, and nothing else costs anything.
    again = messages * (TIMES - 1)
    before = spent(house)
    house.publisher.publish(again)
    house.until(lambda: broker_of_choice.waiting() == 0, "every duplicate is refused and acknowledged", 300)
    after = spent(house)
    check_once(house, task_id, ledger, MESSAGES)
    workers, backends, commits = (b - a for a, b in zip(before, after, strict=True))
    with capsys.disabled():
        print(
            f"\n{MESSAGES} messages, each delivered {TIMES} times (seed {seed}): 0 twice, {seconds:.1f} s;"
            f" refusing one of {len(again)} duplicates: {workers / len(again) * 1e6:.0f} us CPU of a worker,"
            f" {backends / len(again) * 1e6:.0f} us of Postgres, {commits / len(again):.3f} commits"
        )
    assert commits / len(again) <= 1.1, "a refusal costs a transaction at most, and shares it where more have come"


@pytest.mark.timeout(120)
def test_a_blip_of_all_connections_delivers_again_what_is_in_flight_and_nothing_runs_twice(
    house: House, broker_of_choice: TestBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in WORKERS:
        if name not in house.processes:
            house.start_workers(name)
    ledger = Ledger(tmp_path / "ledger")
    task_id, messages = begin(house, ledger, IN_FLIGHT, seconds=5.0)
    house.publisher.publish(messages)
    house.until(lambda: len(ledger.lines("begun")) == IN_FLIGHT, "all are in flight", 4)
    house.until(lambda: broker_of_choice.waiting() == IN_FLIGHT, "the broker knows of each", 2)
    pushed = broker_of_choice.pushes() if isinstance(broker_of_choice, RedisBroker) else 0
    cut_broker = broker_of_choice.cut()
    cut_database = cut_backends(house)
    assert ledger.lines("ended") == [], "all were in flight when it happened"
    house.wait(task_id, 30)
    house.until(lambda: broker_of_choice.waiting() == 0, "every message is acknowledged")
    check_once(house, task_id, ledger, IN_FLIGHT)
    with capsys.disabled():
        print(
            f"\nblip with {IN_FLIGHT} steps in flight: {cut_broker} connections to the broker and {cut_database} to"
            " Postgres cut, 0 bodies twice"
        )
    if isinstance(broker_of_choice, RedisBroker):
        assert broker_of_choice.pushes() - pushed >= IN_FLIGHT, "all were delivered again"
    assert house.rescues().expired == 0
    assert house.violations() == []


def begin(house: House, ledger: Ledger, count: int, seconds: float = 0.0) -> tuple[UUID, list[Message]]:
    """A task of so many steps side by side, and a message for each; none is published."""
    given = {"ledger": str(ledger.path), "seconds": [seconds]}
    steps = [{"id": f"s{number}", "agent": "noted", "input": given} for number in range(count)]
    plan = Plan.model_validate({"steps": steps})
    (result,) = submit(house.engine, "default", [Submission(team="ledger", plan=plan)]).results
    assert isinstance(result, Created), result
    rows = house.query("select id, epoch from steps where task_id = %(id)s", id=result.task_id)
    refs = [StepRef(id=row["id"], epoch=row["epoch"]) for row in rows]
    return result.task_id, [Message(id=new_id(), kind=MessageKind.EXECUTE, queue=QUEUE, steps=(ref,)) for ref in refs]


def check_once(house: House, task_id: UUID, ledger: Ledger, count: int) -> None:
    """By the ledger, which the database does not know, and by the database."""
    for event in ("begun", "ended"):
        runs = Counter(line.step for line in ledger.lines(event))
        assert len(runs) == count
        assert set(runs.values()) == {1}, [step for step, times in runs.items() if times > 1]
    attempts = house.attempts(task_id)
    assert len(attempts) == count
    assert {(each["state"], each["epoch"], each["accepted_epoch"]) for each in attempts} == {("succeeded", 1, 1)}
    assert house.violations("safety") == []


def spent(house: House) -> Spent:
    """Once the backends have told what they have committed, which they do within about a second."""
    told_at = time.monotonic() + 1.5
    house.until(lambda: time.monotonic() > told_at, "the backends have told")
    (row,) = house.query("select xact_commit from pg_stat_database where datname = current_database()")
    backends = house.query(
        "select pid from pg_stat_activity where datname = current_database() and application_name like 'batcher %%'"
    )
    return Spent(
        cpu_seconds([house.pid(name) for name in WORKERS]),
        cpu_seconds([each["pid"] for each in backends]),
        row["xact_commit"],
    )


def cpu_seconds(pids: Sequence[int]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(each.user + each.system for each in times)


def cut_backends(house: House) -> int:
    """Terminate every connection of the house's to its database but this test's own."""
    with psycopg.connect(house.settings.database_url, autocommit=True) as connection:
        cut = connection.execute(
            """select count(pg_terminate_backend(pid)) from pg_stat_activity
            where datname = current_database() and pid <> pg_backend_pid()"""
        ).fetchone()
    assert cut is not None
    return int(cut[0])
