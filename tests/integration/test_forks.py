"""Forks: a task that takes over what another has accepted, in whatever state that one is, and leaves it alone."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine

from contracts.errors import Failure, InvalidInput, NotFound
from contracts.plans import Plan
from contracts.settlements import AcceptPlan, Approve, Ask, Bury, Propose, Return
from contracts.teams import Agent, Schemas, Team
from shared_state import forks, prune, tasks, views
from shared_state.engine import transaction
from shared_state.forks import Forking
from shared_state.tasks import Submission
from shared_state.teams import apply
from shared_state.verify import violations

from .driver import Driver

UNABLE = Failure(code="agent.unable", text="It cannot.")
CHAIN: list[dict[str, Any]] = [
    {"id": "a", "input": {"n": 1}},
    {"id": "b", "needs": ["a"], "input": {"n": 2}},
    {"id": "c", "needs": ["b"], "input": {"n": 3}},
    {"id": "side"},
]
CLOSED = {"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": False}


@pytest.fixture
def driver(engine: Engine) -> Driver:
    return Driver(engine)


def fork(driver: Driver, task_id: UUID, step: str, **fields: Any) -> UUID:
    forking = Forking.model_validate({"from": step, **fields})
    return forks.fork(driver.engine, "default", task_id, forking, "ann").created.task_id


def story(driver: Driver, task_id: UUID) -> list[Any]:
    """Everything of one task but its events."""
    names = ("steps", "dependencies", "attempts", "outputs", "proposals", "outbox", "dead_letters")
    rows = [driver.query(f"select * from {name} where task_id = %(id)s order by 1, 2", id=task_id) for name in names]
    return [driver.task(task_id), *rows]


def outputs(driver: Driver, task_id: UUID) -> dict[str, Any]:
    sql = "select s.key, o.body from outputs o join steps s on s.id = o.step_id where o.task_id = %(id)s"
    return {row["key"]: row["body"] for row in driver.query(sql, id=task_id)}


def test_a_failed_task_goes_on_from_its_dead_step_with_another_input(driver: Driver) -> None:
    task_id = driver.submit(CHAIN, goal="Count.", labels={"x": "y"})
    driver.settle(driver.claim("a")[0])
    driver.settle(driver.claim("side")[0])
    driver.settle(driver.claim("b")[0], Bury(failure=UNABLE))
    assert driver.task(task_id)["state"] == "failed"
    before = story(driver, task_id)

    made = fork(driver, task_id, "b", edit={"n": 20})

    assert driver.states(made) == {"a": "succeeded", "side": "succeeded", "b": "ready", "c": "blocked"}
    task = driver.task(made)
    assert (task["state"], task["goal"], task["labels"], task["step_count"]) == ("running", "Count.", {"x": "y"}, 4)
    (assignment,) = driver.claim()
    assert (assignment.key, assignment.input, assignment.attempt) == ("b", {"n": 20}, 1)
    assert assignment.inputs == {"a": {"from": "a"}}
    driver.settle(assignment)
    assert driver.finish_all() == ["c"]
    assert driver.task(made)["state"] == "succeeded"
    assert driver.task(made)["degraded"] is False
    assert story(driver, task_id) == before
    with transaction(driver.engine) as connection:
        shown = views.tasks.read(connection, "default", made)["forked_from"]
        steps = {step["key"]: step for step in views.steps.page(connection, "default", made, limit=9)}
        assert views.tasks.read(connection, "default", task_id)["forked_from"] is None
    assert shown == {"task_id": str(task_id), "step": "b", "actor": "ann", "edited": True}
    (ran,) = driver.query("select id from steps where task_id = %(id)s and key = 'a'", id=task_id)
    assert steps["a"]["shared_from"] == str(ran["id"])
    assert steps["b"]["shared_from"] is None


def test_both_tasks_tell_of_it(driver: Driver) -> None:
    task_id = driver.submit(CHAIN)
    made = fork(driver, task_id, "a")
    told = driver.query("select task_id, data from events where type = 'task.forked' order by id")
    assert {row["task_id"]: row["data"] for row in told} == {
        made: {"from": str(task_id), "step": "a", "actor": "ann", "edited": False, "shared": 0},
        task_id: {"to": str(made), "step": "a", "actor": "ann"},
    }


def test_a_running_task_is_forked_as_it_is_at_that_moment(driver: Driver) -> None:
    task_id = driver.submit(CHAIN)
    driver.settle(driver.claim("a")[0])
    (held,) = driver.claim("b")
    made = fork(driver, task_id, "c")
    assert driver.states(made) == {"a": "succeeded", "b": "ready", "side": "ready", "c": "blocked"}
    assert driver.states(task_id)["b"] == "running"
    driver.settle(held)
    driver.finish_all()
    for each in (task_id, made):
        assert driver.task(each)["state"] == "succeeded"


def test_a_succeeded_task_runs_again_from_there(driver: Driver) -> None:
    task_id = driver.submit(CHAIN)
    driver.finish_all()
    made = fork(driver, task_id, "c")
    assert driver.finish_all() == ["c"]
    assert driver.task(made)["state"] == "succeeded"


def test_a_cancelled_task_can_be_forked_and_a_fork_cancelled(driver: Driver) -> None:
    task_id = driver.submit(CHAIN)
    driver.settle(driver.claim("a")[0])
    tasks.cancel(driver.engine, "default", task_id, "ann")
    made, other = fork(driver, task_id, "c"), fork(driver, task_id, "c")
    assert driver.states(made) == {"a": "succeeded", "b": "ready", "side": "ready", "c": "blocked"}
    tasks.cancel(driver.engine, "default", other, "ann")
    assert set(driver.states(other).values()) == {"succeeded", "cancelled"}
    driver.finish_all()
    assert driver.task(made)["state"] == "succeeded"


def test_a_step_that_was_tried_again_takes_its_whole_story_along(driver: Driver) -> None:
    task_id = driver.submit(CHAIN)
    driver.settle(driver.claim("a")[0], Return(failure=UNABLE))
    driver.settle(driver.claim("a")[0])
    made = fork(driver, task_id, "b")
    sql = """select a.epoch, a.attempt, a.state, a.worker, a.error, a.started_at, s.attempt_count
        from attempts a join steps s on s.id = a.step_id where a.task_id = %(id)s and s.key = 'a' order by a.epoch"""
    assert driver.query(sql, id=made) == driver.query(sql, id=task_id)
    assert [row["state"] for row in driver.query(sql, id=made)] == ["failed", "succeeded"]


def test_a_reviewed_output_stays_reviewed_and_a_new_one_is_reviewed_again(driver: Driver) -> None:
    task_id = driver.submit([{"id": "a", "agent": "careful"}, {"id": "b", "agent": "careful", "needs": ["a"]}])
    driver.settle(driver.claim("a")[0], Propose(output="first"))
    driver.settle(driver.claim("a")[0], Approve())
    driver.settle(driver.claim("b")[0], Propose(output="second"))
    made = fork(driver, task_id, "b")
    assert outputs(driver, made) == {"a": "first"}
    roles = driver.query("select role, state from attempts where task_id = %(id)s order by epoch", id=made)
    assert [(row["role"], row["state"]) for row in roles] == [("executor", "succeeded"), ("reviewer", "succeeded")]
    (ready,) = [row for row in driver.ready() if row["task_id"] == made]
    assert (ready["key"], ready["kind"]) == ("b", "execute")


def test_what_waits_for_a_person_or_ran_without_an_optional_step_runs_anew(driver: Driver) -> None:
    task_id = driver.submit(
        [{"id": "may", "optional": True}, {"id": "after", "needs": ["may"]}, {"id": "asks"}, {"id": "good"}]
    )
    driver.settle(driver.claim("may")[0], Bury(failure=UNABLE))
    driver.settle(driver.claim("asks")[0], Ask(text="?"))
    for assignment in driver.claim("after", "good"):
        driver.settle(assignment)
    made = fork(driver, task_id, "asks")
    assert driver.states(made) == {"may": "ready", "after": "blocked", "asks": "ready", "good": "succeeded"}


class TestPlanned:
    @pytest.fixture
    def planned(self, driver: Driver) -> UUID:
        task_id = driver.created(Submission(team="planned", input={"n": 1}))
        plan = Plan.model_validate({"steps": [{"id": "x", "agent": "work"}, {"id": "y", "agent": "work"}]})
        driver.settle(driver.claim()[0], AcceptPlan(plan=plan))
        driver.settle(driver.claim("x")[0])
        return task_id

    def test_from_a_step_of_the_plan_keeps_the_plan(self, driver: Driver, planned: UUID) -> None:
        made = fork(driver, planned, "y")
        assert driver.states(made) == {"@plan": "succeeded", "x": "succeeded", "y": "ready"}
        assert driver.task(made)["planned_at"] is not None
        driver.claim("y")
        assert driver.task(made)["state"] == "running"

    def test_from_the_planner_plans_anew(self, driver: Driver, planned: UUID) -> None:
        made = fork(driver, planned, "@plan", edit={"n": 2})
        assert driver.states(made) == {"@plan": "ready"}
        task = driver.task(made)
        assert (task["state"], task["planned_at"], task["step_count"]) == ("planning", None, 1)
        (ready,) = [row for row in driver.ready() if row["task_id"] == made]
        assert ready["kind"] == "plan"
        plan = Plan.model_validate({"steps": [{"id": f"s{n}", "agent": "work"} for n in range(5)]})
        (lead,) = [each for each in driver.claim() if each.task_id == made]
        assert lead.input == {"n": 2}
        assert driver.settle(lead, AcceptPlan(plan=plan))[0]
        driver.finish_all()
        assert driver.task(made)["state"] == "succeeded"


def test_a_fork_of_a_fork_remembers_where_a_step_ran(driver: Driver) -> None:
    task_id = driver.submit(CHAIN)
    driver.finish_all()
    second = fork(driver, task_id, "c")
    driver.finish_all()
    third = fork(driver, second, "side")
    rows = driver.query(
        """select s.key, h.from_task_id, o.key as ran from shared_steps h join steps s on s.id = h.step_id
        join steps o on o.id = h.from_step_id where h.task_id = %(id)s""",
        id=third,
    )
    assert {row["key"]: row["from_task_id"] for row in rows} == {"a": task_id, "b": task_id, "c": second}
    assert all(row["key"] == row["ran"] for row in rows)


def test_a_fork_outlives_its_origin(driver: Driver) -> None:
    task_id = driver.submit(CHAIN)
    driver.finish_all()
    made = fork(driver, task_id, "c")
    driver.query("update tasks set finished_at = clock_timestamp() - interval '9 days' where id = %(id)s", id=task_id)
    assert prune.prune(driver.engine, retention_days=1)["tasks"] == 1
    driver.finish_all()
    assert outputs(driver, made) == {key: {"from": key} for key in ("a", "b", "c", "side")}
    with pytest.raises(NotFound):
        fork(driver, task_id, "c")


def test_the_deadline_is_as_far_away_as_it_was(driver: Driver) -> None:
    task_id = driver.submit(CHAIN, deadline_seconds=100)
    driver.query(
        "update tasks set created_at = created_at - interval '1 day', deadline_at = deadline_at - interval '1 day'"
    )
    made = driver.task(fork(driver, task_id, "a"))
    assert abs((made["deadline_at"] - made["created_at"]).total_seconds() - 100) < 1


def test_many_steps_are_forked_in_no_time_and_get_their_turns(driver: Driver) -> None:
    wide = [{"id": f"s{n}"} for n in range(60)]
    task_id = driver.submit([*wide, {"id": "join", "needs": [each["id"] for each in wide]}])
    made = forks.fork(driver.engine, "default", task_id, Forking.model_validate({"from": "s0"}), "ann")
    assert len(made.wakeups) == 20
    published = driver.query(
        "select count(*) as n from outbox where task_id = %(id)s and published_at is not null", id=made.created.task_id
    )
    assert published[0]["n"] == 20
    assert driver.query(
        "select needs_left from steps where task_id = %(id)s and key = 'join'", id=made.created.task_id
    ) == [{"needs_left": 60}]


class TestRefusals:
    def test_an_edit_must_fit_the_stored_schema(self, driver: Driver) -> None:
        strict = Team(name="strict", agents={"count": Agent(call="m:f")}, schemas={"count": Schemas(input=CLOSED)})
        apply(driver.engine, "default", strict)
        task_id = driver.created(Submission(team="strict", input={"n": 1}))
        with pytest.raises(InvalidInput) as refused:
            fork(driver, task_id, "count", edit={"n": "many"})
        assert refused.value.field == "edit.n"
        assert driver.query("select count(*) as n from tasks") == [{"n": 1}]
        fork(driver, task_id, "count", edit={"n": 2})

    def test_a_step_that_is_not_there(self, driver: Driver) -> None:
        task_id, other = driver.submit(CHAIN), driver.submit(CHAIN)
        (foreign,) = driver.query("select id from steps where task_id = %(id)s and key = 'a'", id=other)
        for name in ("nothing", str(uuid4()), str(foreign["id"])):
            with pytest.raises(InvalidInput) as refused:
                fork(driver, task_id, name)
            assert refused.value.field == "from"

    def test_by_the_id_of_a_step_too(self, driver: Driver) -> None:
        task_id = driver.submit(CHAIN)
        (step,) = driver.query("select id from steps where task_id = %(id)s and key = 'c'", id=task_id)
        made = fork(driver, task_id, str(step["id"]))
        assert driver.query("select from_step_key from forks where task_id = %(id)s", id=made) == [
            {"from_step_key": "c"}
        ]

    def test_another_tenants_task_is_not_there(self, driver: Driver) -> None:
        task_id = driver.submit(CHAIN)
        with pytest.raises(NotFound):
            forks.fork(driver.engine, "elsewhere", task_id, Forking.model_validate({"from": "a"}), "eve")

    def test_a_key_makes_one_fork(self, driver: Driver) -> None:
        task_id = driver.submit(CHAIN)
        first = fork(driver, task_id, "b", idempotency_key="k")
        assert fork(driver, task_id, "b", idempotency_key="k") == first
        for step, edit in (("b", {"n": 5}), ("c", None)):
            with pytest.raises(InvalidInput) as refused:
                fork(driver, task_id, step, edit=edit, idempotency_key="k")
            assert refused.value.field == "idempotency_key"
        assert driver.query("select count(*) as n from tasks") == [{"n": 2}]


def test_the_invariants_hold(driver: Driver) -> None:
    task_id = driver.submit(CHAIN)
    driver.settle(driver.claim("a")[0])
    fork(driver, task_id, "b")
    assert violations(driver.engine) == []
