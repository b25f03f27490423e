"""kill -9 of the worker at every turn of a model's work: nothing that was answered is asked, and paid, again."""

from collections import Counter
from functools import partial
from uuid import UUID

import pytest

from tests.providers.models import NAME, calculating, steps, talkers
from tests.providers.scripted import ScriptedProvider

from .conftest import MakeHouse
from .house import House

TURNS = 12


def is_asked(provider: ScriptedProvider, turn: int) -> bool:
    return any(len(ask.results) == turn for ask in provider.ledger)


def is_written(house: House, task: UUID, turn: int) -> bool:
    return bool(house.query("select 1 from model_calls where task_id = %(task)s offset %(turn)s", task=task, turn=turn))


@pytest.mark.timeout(180)
def test_a_worker_killed_at_every_turn_pays_nothing_twice(make_house: MakeHouse, provider: ScriptedProvider) -> None:
    """Every other time while a request is on its way, else just when its answer is in the journal."""
    house = make_house("k0", lease_seconds=20.0)
    (house.folder / "key").write_text("a key")
    house.apply(talkers(provider.url, api_key=f"file:{house.folder / 'key'}"))
    provider.on(lambda ask: True, calculating(TURNS, seconds=0.25))
    task = house.submit(steps(1), team=NAME)
    in_flight: Counter[int] = Counter()
    for turn in range(TURNS):
        if turn % 2 == 0:
            house.until(partial(is_written, house, task, turn), f"turn {turn} is written down", 20)
        else:
            house.until(partial(is_asked, provider, turn), f"turn {turn} is asked", 20)
            in_flight[turn] += 1
        house.kill(f"k{turn}")
        house.expire(f"k{turn}")
        house.start_workers(f"k{turn + 1}", lease_seconds=20.0)
    ended = house.wait(task, 30)
    assert ended["state"] == "succeeded"
    asked = Counter(len(ask.results) for ask in provider.ledger)
    assert set(asked) == set(range(TURNS))
    # A kill when an answer has just been written may find the next request on its way.
    assert all(asked[turn] <= 1 + in_flight[turn] + (turn % 2) for turn in asked), asked
    assert asked.total() <= TURNS + TURNS
    assert (
        house.query("select count(*) as count from model_calls where task_id = %(task)s", task=task)[0]["count"]
        == TURNS
    )
