"""The dev server's small decisions: how many workers, when to restart, what a scale request may say."""

from pathlib import Path

import pytest

from contracts.errors import InvalidInput, Misconfigured
from orchestrator.dev.counts import ask_for, asked_counts, forget_counts
from orchestrator.dev.options import Options, merged_counts
from orchestrator.dev.restarts import LONGEST_SECONDS, YOUNG_SECONDS, Restarts


def test_two_workers_serve_all_roles_unless_numbers_are_given() -> None:
    assert Options().counts() == {"worker": 2, "executor": 0, "reviewer": 0, "planner": 0}
    assert Options(executors=3).counts() == {"worker": 0, "executor": 3, "reviewer": 1, "planner": 1}
    assert Options(executors=0, reviewers=0, planners=2).counts()["executor"] == 0
    with pytest.raises(InvalidInput, match="executor: -1"):
        Options(executors=-1).counts()


def test_a_part_that_lived_is_started_at_once_and_one_that_dies_young_ever_later() -> None:
    restarts = Restarts()
    assert [restarts.delay_after(0, 1) for _ in range(4)] == [0.0, 0.25, 0.5, 1.0]
    assert max(restarts.delay_after(0, 1) for _ in range(20)) == LONGEST_SECONDS
    assert restarts.delay_after(0, YOUNG_SECONDS) == 0
    assert restarts.delay_after(0, 1) == 0
    assert restarts.count == 26


def test_scaling_needs_a_dev_server_and_a_pool(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="replicas"):
        ask_for(tmp_path, "executor", 3)
    (tmp_path / "dev.json").write_text("{}")
    with pytest.raises(InvalidInput, match="'dancer' is no pool"):
        ask_for(tmp_path, "dancer", 3)
    with pytest.raises(InvalidInput, match="between 0 and"):
        ask_for(tmp_path, "executor", 1000)
    ask_for(tmp_path, "executor", 3)
    ask_for(tmp_path, "worker", 0)
    assert merged_counts(Options().counts(), asked_counts(tmp_path)) == {
        "worker": 0,
        "executor": 3,
        "reviewer": 0,
        "planner": 0,
    }
    forget_counts(tmp_path)
    assert asked_counts(tmp_path) == {}


@pytest.mark.parametrize("content", ["", "[1]", '{"executor": "many"}', '{"executor": 100000}', '{"x": 1}'])
def test_a_broken_request_asks_for_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "counts.json").write_text(content)
    assert asked_counts(tmp_path) == {}
