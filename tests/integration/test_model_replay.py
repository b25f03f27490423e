"""Recorded traffic of model providers: played on loopback, heard by the real client libraries under our model layer.

A part of it, drawn by a seed that is printed and that ORCHESTRATOR_TEST_SEED repeats; `make replay` plays all of it.
"""

import os
import random
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.providers.recordings import Exchange, load, truth
from tests.replay import conversations, exchanges, faults

# The recordings name models that are out of date, and say things that client libraries warn of.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
CASSETTES = 150
CONVERSATIONS = 40


@pytest.fixture(scope="module")
def seed() -> int:
    return int(os.environ.get("ORCHESTRATOR_TEST_SEED", random.randrange(10**6)))


@pytest.fixture(scope="module")
def cassettes(test_data: Path) -> list[list[Exchange]]:
    return list(load(test_data).values())


def test_recorded_exchanges_end_as_the_recording_says(
    engine: Engine, cassettes: list[list[Exchange]], seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that are no plain success, and some that are."""
    odd = [each for each in cassettes if any(_is_odd(exchange) for exchange in each)]
    drawn = random.Random(seed).sample([each for each in cassettes if each not in odd], CASSETTES - len(odd))
    table = exchanges.run(engine, odd + drawn)
    with capsys.disabled():
        print(f"\nseed {seed}", *table.lines(), sep="\n")
    assert table.failures == []
    assert table.counts["passed"] + table.counts["refused"] == table.counts["exchanges"] >= CASSETTES
    assert len(table.endings) >= 10


def _is_odd(exchange: Exchange) -> bool:
    return exchanges.supported(exchange) and truth(exchange).ending not in ("answered", "tool_calls")


@pytest.mark.parametrize("broken", [False, True], ids=["as recorded", "with faults"])
def test_recorded_conversations_run_as_whole_agents(
    engine: Engine, cassettes: list[list[Exchange]], seed: int, broken: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """With exactly as many calls as were recorded, and one more for each fault."""
    tapes = random.Random(seed).sample(conversations.conversations(cassettes), CONVERSATIONS)
    played = conversations.run(engine, tapes, faults.plan_of_conversations(seed, tapes) if broken else None)
    with capsys.disabled():
        print(f"\nseed {seed}: {played}")
    assert played.failures == []
    assert played.calls == sum(len(tape) for tape in tapes) + played.faults
    assert played.results > 10
    assert (played.faults > 10) == broken
