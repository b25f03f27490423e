"""The short form of `make faults`: some rows of the fault matrix, for a few seconds each, and one with a guard off."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.result import Result
from tests.faults.row import Row
from tests.faults.rows import all_rows
from tests.faults.run import run_row, seed_of
from tests.faults.servers import Servers

SHORT = {"F01": 8.0, "F01-unseen": 8.0, "F11": 8.0, "F16": 6.0, "F26": 8.0, "F29": 6.0}
ABLATED = "F03"
PATIENCE_SECONDS = 10.0
SEED = random.randrange(10**6)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    made = Servers(tmp_path_factory.mktemp("servers"))
    yield made
    made.stop()


@pytest.mark.parametrize("name", SHORT)
def test_nothing_is_lost_and_nothing_happens_twice(name: str, servers: Servers, tmp_path: Path) -> None:
    row = next(row for row in all_rows() if row.name == name and row.ablation is None)
    result = play(row, servers, tmp_path, SHORT[name])
    assert result.held, f"seed {SEED}: {result.problems}"
    assert sum(result.injected.values()) > 0
    assert result.tally.tasks > 10


def test_without_fencing_a_row_fails(servers: Servers, tmp_path: Path) -> None:
    row = next(row for row in all_rows() if row.name == ABLATED and row.ablation == "fence")
    # A worker that wakes up may notice by its own clock that its lease is over, and drop the result before it commits.
    for number in range(3):
        result = play(row, servers, tmp_path / str(number), 14.0, SEED + number)
        assert not result.held
        if result.tally.zombie_commits:
            return
    pytest.fail(f"seed {SEED}: no late result was accepted: {result.problems}")


def play(row: Row, servers: Servers, folder: Path, seconds: float, seed: int = SEED) -> Result:
    """How fast recovery is, is judged by `make faults`: here other tests may have the machine's attention."""
    patient = replace(row, seen_target=row.seen_target and PATIENCE_SECONDS, unseen_target=None)
    return run_row(patient, servers, folder / "row", seed_of(seed, row), seconds)
