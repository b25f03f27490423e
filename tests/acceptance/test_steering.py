"""Fairness, limits, pauses and drains on real workers: nothing is lost, and what may not run does not."""

import time
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import pytest

from contracts.teams import Team
from shared_state import pauses, presence
from shared_state.pauses import Target

from . import ledger
from .conftest import MakeHouse
from .house import House
from .ledger import Ledger

WORKERS = ("w1", "w2", "w3")
AT_ONCE = 5
NAP = 0.05


@pytest.fixture(scope="module")
def house(make_house: MakeHouse) -> House:
    house = make_house(*WORKERS, drain_seconds=1.0)
    plain = ledger.team().model_dump(mode="json")
    limited = {**plain, "name": "limited", "agents": {"noted": {**plain["agents"]["noted"], "concurrency": AT_ONCE}}}
    house.apply(Team.model_validate(plain))
    house.apply(Team.model_validate(limited))
    return house


def noted(
    path: Path, count: int, *, prefix: str = "s", chain: bool = False, seconds: float = NAP
) -> list[dict[str, object]]:
    return [
        {
            "id": f"{prefix}{number}",
            "agent": "noted",
            "input": {"ledger": str(path), "seconds": [seconds]},
            "needs": [f"{prefix}{number - 1}"] if chain and number else [],
        }
        for number in range(count)
    ]


def ended_at(house: House, tasks: Sequence[UUID]) -> list[float]:
    sql = "select extract(epoch from finished_at)::float8 as at, state from tasks where id = any(%(ids)s)"
    rows = house.query(sql, ids=list(tasks))
    assert {row["state"] for row in rows} == {"succeeded"}
    return [row["at"] for row in rows]


def test_small_tasks_end_before_a_large_one_that_came_first(house: House) -> None:
    large = house.submit([{"id": f"s{number}", "agent": "echo", "input": {"n": number}} for number in range(10_000)])
    small = [
        house.submit(
            [{"id": f"s{n}", "agent": "echo", "input": {}, "needs": [f"s{n - 1}"] if n else []} for n in range(3)]
        )
        for _ in range(20)
    ]
    for task in [*small, large]:
        house.wait(task, 90)
    first, (last,) = ended_at(house, small), ended_at(house, [large])
    print(f"20 small tasks ended {last - max(first):.2f} s before the large one")
    assert max(first) < last


def test_a_limit_holds_over_workers_that_are_killed(house: House, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    large = house.submit(noted(path, 200), team="limited")
    small = [house.submit(noted(path, 3, prefix=f"t{n}.", chain=True), team="limited") for n in range(5)]
    killed: list[float] = []
    most = 0

    def look() -> bool:
        nonlocal most
        (row,) = house.query("select count(*) as n from steps where lease_until is not null")
        most = max(most, row["n"])
        return bool(house.query("select 1 from tasks where id = %(id)s and finished_at is not null", id=large))

    for name, begun in (("w1", 30), ("w2", 80)):
        house.until(lambda begun=begun: look() or len(Ledger(path).lines("begun")) > begun, f"{begun} began", 30)
        house.kill(name)
        killed.append(time.time())
        house.start_workers(name)
    house.until(look, "the large one ends", 60)
    for task in [*small, large]:
        house.wait(task, 30)

    overlap = most_at_once(Ledger(path), killed)
    began = len(Ledger(path).lines("begun"))
    print(f"at most {most} leased and {overlap} bodies at once, of {AT_ONCE}; {began} bodies began")
    assert most <= AT_ONCE
    assert overlap == AT_ONCE, "never more, and the places are used"
    assert max(ended_at(house, small)) < ended_at(house, [large])[0]
    assert house.violations() == []


def most_at_once(ledger: Ledger, killed: Sequence[float]) -> int:
    """Bodies between their lines; one without a second line ended with its worker, at the latest when that was dead."""
    ended = {(line.step, line.attempt): line.at for line in ledger.lines("ended")}
    moves: list[tuple[float, int]] = []
    for line in ledger.lines("begun"):
        end = ended.get((line.step, line.attempt)) or min(at for at in killed if at > line.at)
        moves += [(line.at, 1), (end, -1)]
    now = most = 0
    for _, change in sorted(moves):
        now += change
        most = max(most, now)
    return most


@pytest.mark.parametrize("what", ["task", "agent"])
def test_what_is_paused_begins_nothing_and_goes_on_when_resumed(house: House, tmp_path: Path, what: str) -> None:
    path = tmp_path / "ledger"
    task = house.submit(
        [*noted(path, 300, seconds=0.2), *noted(path, 5, prefix="c", chain=True, seconds=0.3)], team="ledger"
    )
    book = Ledger(path)
    house.until(lambda: len(book.lines("begun")) > 20, "it runs")
    target = {
        "task": Target(task_id=task),
        "team": Target(team="ledger"),
        "agent": Target(team="ledger", agent="noted"),
    }[what]
    pauses.pause(house.engine, "default", target, "the provider is down", "somebody")
    house.until(lambda: not house.running(task), "what runs ends", 10)
    began = len(book.lines("begun"))
    assert began == len(book.lines("ended")), "what ran has finished"
    sql = "select count(*) as n from steps where task_id = %(id)s and state = 'ready' and attempt_count = 0"
    (held,) = house.query(sql, id=task)
    other = house.submit([{"id": f"s{n}", "agent": "echo", "input": {}} for n in range(50)])
    house.wait(other, 10)
    quiet_from = time.monotonic()
    sent = house.rescues().republished
    house.until(lambda: time.monotonic() > quiet_from + 1.5 * house.settings.republish_seconds, "some time passes")
    assert len(book.lines("begun")) == began, "nothing has begun"
    assert house.rescues().republished == sent, "and nobody was sent for"
    (parked,) = house.query("select count(*) as n from parked where task_id = %(id)s", id=task)
    assert parked["n"] == held["n"] > 0
    assert house.violations() == []

    resumed = time.time()
    pauses.resume(house.engine, "default", target, "somebody")
    house.until(lambda: len(book.lines("begun")) > began, "it goes on", 5)
    delay = book.lines("begun")[began].at - resumed
    house.wait(task, 30)
    print(f"{what}: {held['n']} steps held; {1000 * delay:.0f} ms from the resumption to the first body")
    assert delay < 2
    assert {each["attempt"] for each in house.attempts(task)} == {1}, "no attempt was spent"
    assert house.query("select 1 from parked") == []
    assert house.violations() == []


def test_a_worker_is_drained_from_anywhere(house: House, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    longer = 2.5 * house.settings.drain_seconds
    task = house.submit([*noted(path, 30, prefix="l", seconds=longer), *noted(path, 300, seconds=0.3)], team="ledger")
    house.until(lambda: any(key.startswith("l") for key in house.running(task, "w1")), "the worker has some of it")
    presence.ask_to_drain(house.engine, "w1", "somebody")
    assert house.exit_code("w1", 20) == 0, house.tail("w1")
    (row,) = house.query("select state, drain_requested_by from workers where name = 'w1'")
    assert row == {"state": "gone", "drain_requested_by": "somebody"}
    house.wait(task, 60)
    assert {each["attempt"] for each in house.attempts(task)} == {1}, "what it held it has finished"
    house.start_workers("w1")
    (row,) = house.query("select state, drain_requested_by from workers where name = 'w1'")
    assert row == {"state": "running", "drain_requested_by": None}, "another life of the same name is asked nothing"
    assert house.violations() == []
