"""Recorded answers of model providers with faults before them, through real workers."""

import os
import random
from pathlib import Path

import pytest

from tests.providers.recordings import load
from tests.replay import faults

from .conftest import MakeHouse

TAPES = 96
SILENCE_SECONDS = 3.0


@pytest.mark.timeout(180)
def test_faults_before_recorded_answers_end_in_the_right_state(
    make_house: MakeHouse, test_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The seed is printed; ORCHESTRATOR_TEST_SEED repeats it."""
    seed = int(os.environ.get("ORCHESTRATOR_TEST_SEED", random.randrange(10**6)))
    found = faults.chosen(list(load(test_data).values()))
    streams = [each for each in found if each.stream]
    tapes = random.Random(seed).sample(found, TAPES - 32) + random.Random(seed).sample(streams, 32)
    house = make_house("w1", "w2")
    report = faults.play(house, tapes, seed, SILENCE_SECONDS, 120)
    with capsys.disabled():
        print("", *report.lines(), sep="\n")
    assert report.failures == []
