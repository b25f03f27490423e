"""A worker that is frozen for three times its lease wakes up and finishes its steps: not one of its results is taken.

Its bodies do run to their end (the ledger says so, which no database can): whatever it does with what they returned,
every one of these results must be refused, and the worker must know.
"""

import json
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from .conftest import MakeHouse
from .house import House
from .ledger import Ledger, team

REFUSALS = 200
LEASE_SECONDS = 1.0
BODY_SECONDS = 2.0
AGAIN_SECONDS = 3.5
STEPS = 90
"""At once; the frozen worker holds nearly all of them."""
FREEZES_LIMIT = 20
"""On RabbitMQ the other worker, though it is stopped, is given half of the messages, and so a freeze finds few."""
FROZEN, OTHER = "frozen", "other"
Key = tuple[str, int]
"""Step and epoch."""


@pytest.fixture(scope="module")
def house(make_house: MakeHouse) -> House:
    house = make_house(lease_seconds=10.0, log_format="json", sweep_seconds=0.25)
    house.start_workers(FROZEN, lease_seconds=LEASE_SECONDS)
    house.start_workers(OTHER)
    house.apply(team())
    return house


@pytest.mark.timeout(300)
def test_what_a_frozen_worker_finishes_is_refused_every_time(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zombies: set[Key] = set()
    freezes = 0
    while len(zombies) < REFUSALS:
        assert freezes < FREEZES_LIMIT, f"only {len(zombies)} bodies have ended too late"
        freezes += 1
        task_id, ended = freeze(house, Ledger(tmp_path / f"ledger-{freezes}"), others_done=freezes % 3 == 2)
        house.until(partial(knows, house, ended), "it knows of each that it is too late")
        house.wait(task_id)
        check_story(house, task_id, ended)
        zombies |= ended
    # Refused by the fence: not by what tests' databases have in addition, a trigger that fails on illegal moves.
    assert "settle.refused" not in house.processes[FROZEN].log.tail(10_000_000)
    by_whom = Counter(event for key, event in refusals(house).items() if key in zombies)
    with capsys.disabled():
        print(
            f"\nfrozen worker: {by_whom.total()}/{len(zombies)} results refused, in {freezes} freezes of"
            f" {3 * LEASE_SECONDS:g} s: {by_whom['attempt.stale']} by the database,"
            f" {by_whom['attempt.lost']} by the worker itself before it asked"
        )
    assert house.violations() == []


def freeze(house: House, ledger: Ledger, *, others_done: bool) -> tuple[UUID, set[Key]]:
    """Freeze the worker with its hands full for three leases, and wake it. What its bodies ended after that.

    When it wakes up the other worker has done its steps (`others_done`), or is at them.
    """
    given = {"ledger": str(ledger.path), "seconds": [BODY_SECONDS, 0 if others_done else AGAIN_SECONDS]}
    steps = [{"id": f"s{number}", "agent": "noted", "input": given} for number in range(STEPS)]
    house.signal(OTHER, signal.SIGSTOP)  # so that all steps but those of a message or two go to one worker
    try:
        task_id = house.submit(steps, team="ledger")
        house.until(lambda: len(ledger.lines("begun")) >= STEPS * 0.7, "its hands are full")
        house.signal(FROZEN, signal.SIGSTOP)
        frozen_at = time.time()
    finally:
        house.signal(OTHER, signal.SIGCONT)
    try:
        if others_done:
            house.wait(task_id)
        else:
            house.until(lambda: len(house.running(task_id, OTHER)) > STEPS / 4, "the other worker is at its steps")
        house.until(lambda: time.time() > frozen_at + 3 * LEASE_SECONDS, "three leases have passed")
        held = [each for each in house.attempts(task_id) if each["worker"] == FROZEN and each["state"] == "expired"]
    finally:
        house.signal(FROZEN, signal.SIGCONT)
    begun = {(line.step, line.attempt) for line in ledger.lines("begun") if line.at < frozen_at}
    late = {(str(each["step_id"]), each["attempt"]): each["epoch"] for each in held}
    late = {key: epoch for key, epoch in late.items() if key in begun}
    house.until(lambda: late.keys() <= ended_after(ledger, frozen_at), "its bodies run to their end")
    return task_id, {(step, epoch) for (step, _), epoch in late.items()}


def ended_after(ledger: Ledger, moment: float) -> set[tuple[str, int]]:
    """Step and attempt."""
    return {(line.step, line.attempt) for line in ledger.lines("ended") if line.at > moment}


def check_story(house: House, task_id: UUID, ended: set[Key]) -> None:
    """The frozen attempt expired and changed nothing; one later attempt made the output."""
    stories: dict[str, list[dict[str, Any]]] = {}
    for each in house.attempts(task_id):
        stories.setdefault(str(each["step_id"]), []).append(each)
    for step, epoch in ended:
        (frozen,) = [each for each in stories[step] if each["epoch"] == epoch]
        assert (frozen["worker"], frozen["state"], frozen["log_tail"]) == (FROZEN, "expired", None)
        (taken,) = [each for each in stories[step] if each["state"] == "succeeded"]
        assert taken["epoch"] == taken["accepted_epoch"] > epoch
        (row,) = house.query("select body from outputs where step_id = %(id)s", id=step)
        assert row["body"] == {"attempt": taken["attempt"]}


def knows(house: House, ended: set[Key]) -> bool:
    return ended <= set(refusals(house))


def refusals(house: House) -> dict[Key, str]:
    """How the worker came to know, by step and epoch: the database refused, or it saw that its lease was lost."""
    said = house.processes[FROZEN].log.tail(10_000_000).splitlines()
    lines = [json.loads(line) for line in said if "attempt.lost" in line or "attempt.stale" in line]
    return {(line["step_id"], line["epoch"]): line["event"] for line in lines}
