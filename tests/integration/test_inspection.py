"""The look at the invariants that the loops take: bounded, by one process at a time, told without anybody's words."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine
from structlog.testing import capture_logs

from orchestrator.loops.inspector import inspect_pass
from orchestrator.loops.main import make_loops
from orchestrator.loops.runner import Loop
from shared_state.engine import make_engine, transaction
from shared_state.inspection import VIOLATION_LIMIT, Inspection, Inspector
from shared_state.settings import Settings
from shared_state.statements import query
from shared_state.verify import invariants
from tests.integration.driver import Driver

MakeInspector = Callable[..., Inspector]


@pytest.fixture
def make_inspector(database_url: str) -> Iterator[MakeInspector]:
    """Each with its own connection, as each process has it."""
    engines: list[Engine] = []

    def make(**options: Any) -> Inspector:
        engines.append(make_engine(database_url, pool_size=1))
        return Inspector(engines[-1], **options)

    yield make
    for each in engines:
        each.dispose()


@pytest.fixture
def broken(engine: Engine) -> Iterator[Driver]:
    """Two steps without their queue entries, and one that ends its task without a word."""
    driver = Driver(engine)
    driver.submit([{"id": "secret-word"}, {"id": "b"}])
    driver.query("delete from outbox")
    yield driver
    driver.query("truncate tasks, attempts, outbox cascade")


def inspect(inspector: Inspector) -> Inspection:
    inspection = inspector.inspect()
    assert inspection is not None
    return inspection


def test_one_process_inspects_and_another_takes_over(
    engine: Engine, database_url: str, make_inspector: MakeInspector
) -> None:
    alone = make_engine(database_url, pool_size=1)
    first, second = Inspector(alone), make_inspector()
    for _ in range(3):
        assert first.inspect() is not None
        assert second.inspect() is None
    alone.dispose()  # as the end of its process would
    Driver(engine).query("select")
    assert any(second.inspect() is not None for _ in range(100))


def test_violations_are_told_by_number_and_id_only(broken: Driver, make_inspector: MakeInspector) -> None:
    with capture_logs() as lines:
        assert inspect_pass(make_inspector()) is False
    (line,) = lines
    ids = {str(row["id"]) for row in broken.query("select id from steps")}
    assert set(line.pop("ids")) == ids
    assert line == {
        "event": "invariant.violated",
        "log_level": "error",
        "invariant": "I10",
        "kind": "safety",
        "meaning": next(each.meaning for each in invariants() if each.name == "I10"),
        "count": 2,
        "more": False,
    }


def test_what_holds_is_one_quiet_line(engine: Engine, make_inspector: MakeInspector) -> None:
    Driver(engine).submit([{"id": "a"}])
    with capture_logs() as lines:
        inspect_pass(make_inspector())
    assert [(line["event"], line["log_level"], line["tasks"]) for line in lines] == [("invariants.hold", "debug", 1)]


def test_lateness_is_a_warning(engine: Engine, make_inspector: MakeInspector) -> None:
    driver = Driver(engine)
    driver.submit([{"id": "a"}])
    driver.claim()
    driver.query("update steps set lease_until = clock_timestamp() - interval '1 minute'")
    with capture_logs() as lines:
        inspect_pass(make_inspector())
    assert [(line["event"], line["log_level"], line["invariant"]) for line in lines] == [
        ("invariant.violated", "warning", "I27")
    ]


def test_a_flood_of_violations_is_cut(engine: Engine, make_inspector: MakeInspector) -> None:
    driver = Driver(engine)
    driver.submit([{"id": f"s{number}"} for number in range(VIOLATION_LIMIT + 50)])
    driver.query("delete from outbox")
    with capture_logs() as lines:
        inspect_pass(make_inspector())
    assert [(line["count"], line["more"], len(line["ids"])) for line in lines] == [(VIOLATION_LIMIT, True, 3)]
    driver.query("truncate tasks, attempts, outbox cascade")


def test_a_pass_ends_in_time_and_the_next_goes_on_where_it_ended(engine: Engine, make_inspector: MakeInspector) -> None:
    Driver(engine).submit([{"id": "a"}])
    inspector = make_inspector(pass_seconds=0.5)
    names = [each.name for each in invariants()]
    reads = [each.name for each in invariants() if "outputs" in each.sql]
    with transaction(engine) as connection:
        # Who reads outputs waits for this, as for a query that takes too long.
        query(connection, "lock table outputs in access exclusive mode")
        first, second = inspect(inspector), inspect(inspector)
    assert max(first.seconds, second.seconds) < 1.5
    assert first.unchecked == names[names.index(reads[0]) :]
    assert second.unchecked[0] == reads[1], "the one that took too long comes again after all others"
    assert second.unchecked[-1] == reads[0]
    assert inspect(inspector).unchecked == []


def test_what_was_not_reached_is_told(engine: Engine, make_inspector: MakeInspector) -> None:
    with capture_logs() as lines:
        inspect_pass(make_inspector(pass_seconds=1.0, clock=iter([0.0, *[0.5] * 3, *[2.0] * 99]).__next__))
    assert [(line["event"], line["log_level"]) for line in lines] == [("invariants.unchecked", "warning")]
    assert lines[0]["names"] == [each.name for each in invariants()][3:]


def test_many_tasks_are_looked_at_in_turns(engine: Engine, make_inspector: MakeInspector) -> None:
    driver = Driver(engine)
    ids = [driver.submit([{"id": "a"}]) for _ in range(5)]
    inspector = make_inspector(task_limit=2)
    for task_id in ids:
        driver.query("update tasks set step_count = 9 where id = %(id)s", id=task_id)
    seen = [{each.id for each in inspect(inspector).violations if each.invariant == "I21"} for _ in range(3)]
    assert [len(each) for each in seen] == [2, 2, 2]
    assert set().union(*seen) == {str(task_id) for task_id in ids}
    driver.query("update tasks set step_count = 1")


def test_what_ended_long_ago_is_left_to_verify(engine: Engine, make_inspector: MakeInspector) -> None:
    driver = Driver(engine)
    task_id = driver.submit([{"id": "a"}])
    driver.settle(driver.claim()[0])
    inspector = make_inspector()
    assert inspect(inspector).task_count == 1
    ended = "update tasks set finished_at = clock_timestamp() - interval '1 day' where id = %(id)s"
    driver.query(ended, id=task_id)
    assert inspect(inspector).task_count == 0


def test_the_loop_runs_unless_it_is_switched_off(engine: Engine, make_inspector: MakeInspector) -> None:
    class Nobody:
        def publish(self, messages: Any) -> None:
            raise AssertionError("nothing is published here")

    def loops(seconds: float) -> dict[str, Loop]:
        made = make_loops(Settings(verify_seconds=seconds), engine, Nobody(), make_inspector())
        return {loop.name: loop for loop in made}

    assert loops(7)["inspector"].every_seconds == 7
    with capture_logs() as lines:
        assert loops(7)["inspector"].pass_once() is False
    assert [line["event"] for line in lines] == ["invariants.hold"]
    assert "inspector" not in loops(0)
