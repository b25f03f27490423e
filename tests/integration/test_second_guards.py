"""Guards behind guards: the statements refuse also what the functions around them, or an invariant, would never ask.

Rows are put into states that cannot be by the transitions; each test's transaction is rolled back.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine

from contracts.errors import Failure
from contracts.messages import StepRef
from contracts.settlements import Abandon, Accept, Approve, Ask, Bury, Propose, Return
from contracts.teams import Role
from shared_state import dead_letters, questions, tasks
from shared_state.attempts import Settling, settle
from shared_state.connection import Connection
from shared_state.engine import transaction
from shared_state.outbox import _RELAY_LOCK as RELAY_LOCK
from shared_state.outbox import relay
from shared_state.statements import query, run
from tests.integration.driver import Driver
from tests.integration.overtaken import overtaken

BROKEN = Failure(code="agent.error", text="it broke")
ENDED = "finished_at = clock_timestamp()"


@pytest.fixture
def driver(engine: Engine) -> Driver:
    return Driver(engine)


class _Undo(Exception):
    """Rolls a transaction back."""


@contextmanager
def undone(driver: Driver) -> Iterator[Connection]:
    with suppress(_Undo), transaction(driver.engine) as connection:
        yield connection
        raise _Undo


def asked(driver: Driver) -> UUID:
    driver.submit([{"id": "a"}])
    driver.settle(driver.claim()[0], Ask(text="?"))
    (question,) = driver.query("select id from questions")
    return UUID(str(question["id"]))


def dead(driver: Driver) -> UUID:
    driver.submit([{"id": "a"}, {"id": "b", "needs": ["a"]}])
    driver.settle(driver.claim()[0], Bury(failure=BROKEN))
    (letter,) = driver.query("select id from dead_letters")
    return UUID(str(letter["id"]))


def states(connection: Connection) -> list[Any]:
    return [row["state"] for row in query(connection, "select state from steps order by key")]


def test_an_answer_is_the_tenants_own(driver: Driver) -> None:
    with undone(driver) as connection:
        given = {"id": asked(driver), "answer": "yes", "actor": "me"}
        assert run(connection, "answer", tenant="other", **given) == []
        assert states(connection) == ["waiting"]


def test_an_answer_wakes_only_a_step_that_waits_and_a_task_that_waits(driver: Driver) -> None:
    question = {"id": asked(driver), "tenant": "default", "answer": "yes", "actor": "me"}
    with undone(driver) as connection:
        query(connection, f"update steps set state = 'cancelled', {ENDED}")
        assert run(connection, "answer", **question) == []
        assert states(connection) == ["cancelled"]
    with undone(driver) as connection:
        query(connection, "update tasks set state = 'cancelling'")
        run(connection, "answer", **question)
        assert query(connection, "select state from tasks") == [{"state": "cancelling"}]


def test_a_question_does_not_bring_a_cancelled_task_back(driver: Driver) -> None:
    driver.submit([{"id": "a"}])
    (a,) = driver.claim()
    with undone(driver) as connection:
        query(connection, "update tasks set state = 'cancelling'")
        assert settle(connection, [Settling(a, Ask(text="?"))]).done
        assert query(connection, "select state from tasks") == [{"state": "cancelling"}]


def test_a_question_is_answered_once_though_its_step_waits_again(driver: Driver) -> None:
    first = asked(driver)
    questions.answer(driver.engine, "default", first, "yes", "me")
    driver.settle(driver.claim()[0], Ask(text="and now?"))
    with pytest.raises(Exception, match="not open"):
        questions.answer(driver.engine, "default", first, "no", "me")
    assert driver.query("select answer from questions order by asked_at") == [{"answer": "yes"}, {"answer": None}]


@pytest.mark.parametrize("state", ["ready", "failed"])
def test_a_dead_letter_moves_only_a_dead_step(driver: Driver, state: str) -> None:
    letter = dead(driver)
    calls: dict[str, dict[str, Any]] = {
        "discard": {"id": letter, "actor": "me", "reason": "x"},
        "redrive": {"ids": [letter], "actor": "me", "per_second": None, "before": 0},
        "edit": {"id": letter, "edit_id": uuid4(), "input": '{"edited": 1}', "actor": "me"},
    }
    for name, parameters in calls.items():
        with undone(driver) as connection:
            ended = ENDED if state == "failed" else "finished_at = null"
            query(connection, f"update steps set state = '{state}', {ended} where key = 'a'")
            run(connection, name, **parameters)
            assert states(connection) == [state, "skipped"], name
            assert query(connection, "select input from steps where key = 'a'") == [{"input": {}}]


def test_a_closed_dead_letter_is_neither_edited_nor_redriven(driver: Driver) -> None:
    letter = dead(driver)
    with undone(driver) as connection:
        query(connection, "update dead_letters set state = 'discarded', closed_at = clock_timestamp()")
        edit = {"id": letter, "edit_id": uuid4(), "input": '{"edited": 1}', "actor": "me"}
        assert run(connection, "edit", **edit) == []
        assert run(connection, "redrive", ids=[letter], actor="me", per_second=None, before=0) == []
        assert run(connection, "discard", id=letter, actor="me", reason="x") == []
        assert states(connection) == ["dead", "skipped"]


def test_what_has_ended_is_not_cancelled(driver: Driver) -> None:
    task_id = driver.submit([{"id": "a"}])
    driver.finish_all()
    with undone(driver) as connection:
        run(connection, "cancel", task_id=task_id, actor="me", error='{"code": "x", "text": "x"}')
        assert query(connection, "select state, cancel_requested_at from tasks") == [
            {"state": "succeeded", "cancel_requested_at": None}
        ]


def test_what_has_ended_ends_only_once(driver: Driver) -> None:
    driver.submit([{"id": "a"}])
    (a,) = driver.claim()
    driver.settle(a)
    before = driver.query("select finished_at from tasks")
    assert not driver.settle(a)[0]
    assert driver.query("select finished_at from tasks") == before
    assert len(driver.query("select 1 from events where type = 'task.succeeded'")) == 1


def test_a_failed_task_names_the_required_step_and_the_letter_that_is_open(driver: Driver) -> None:
    task_id = driver.submit([{"id": "a", "optional": True}, {"id": "b"}])
    a, b = sorted(driver.claim(), key=lambda each: each.key)
    driver.settle(a, Bury(failure=Failure(code="agent.unable", text="the optional one")))
    driver.settle(b, Bury(failure=Failure(code="agent.unable", text="the first time")))
    assert driver.task(task_id)["error"]["step"] == "b"
    (letter,) = driver.query("select l.id from dead_letters l join steps s on s.id = l.step_id where s.key = 'b'")
    dead_letters.redrive(driver.engine, "default", [letter["id"]], "me")
    driver.settle(driver.claim()[0], Bury(failure=BROKEN))
    error = driver.task(task_id)["error"]
    assert (error["step"], error["code"]) == ("b", BROKEN.code)


def test_a_late_unpublish_leaves_a_newer_entry_alone(driver: Driver) -> None:
    driver.submit([{"id": "a"}])
    (a,) = driver.claim()
    driver.settle(a, Return(failure=BROKEN))
    with undone(driver) as connection:
        run(connection, "unpublish", ids=[a.step_id], epochs=[a.epoch])
        assert query(connection, "select published_at is null as waits from outbox") == [{"waits": False}]


def test_a_revival_leaves_alone_what_waits_for_nothing(driver: Driver) -> None:
    task_id = driver.submit([{"id": "a"}, {"id": "b", "needs": ["a"]}])
    driver.settle(driver.claim()[0])
    with undone(driver) as connection:
        query(connection, "delete from outbox")
        query(connection, f"update steps set state = 'cancelled', {ENDED} where key = 'b'")
        query(connection, "set local session_replication_role = replica")
        query(connection, "update steps set state = 'skipped' where key = 'b'")
        run(connection, "revive", ids=[task_id])
        assert states(connection) == ["succeeded", "skipped"]


def test_a_proposal_of_a_step_that_goes_on_outlives_a_cancel(driver: Driver) -> None:
    """The reviewer at work may still abandon it; until then it is what the step is under review for."""
    task_id = driver.submit([{"id": "a", "agent": "careful"}])
    driver.settle(driver.claim()[0], Propose(output=1))
    (review,) = driver.claim()
    tasks.cancel(driver.engine, "default", task_id, "me")
    assert driver.query("select state from proposals") == [{"state": "pending"}]
    driver.settle(review, Abandon())
    assert driver.query("select state from proposals") == [{"state": "rejected"}]


def test_a_heartbeat_saves_a_cancelled_attempt_from_the_sweeper(driver: Driver) -> None:
    task_id = driver.submit([{"id": "a"}])
    (a,) = driver.claim()
    tasks.cancel(driver.engine, "default", task_id, "me")
    driver.lapse()
    beat = {"ids": [a.step_id], "epochs": [a.epoch], "progress": [None], "lease_seconds": 30.0}
    with overtaken(driver, lambda connection: run(connection, "heartbeat", **beat)) as late:
        second = late(lambda: driver.settle(a, Abandon(expired=True))[0])
    assert second.result() is False
    assert driver.settle(a, Abandon())[0]


def test_a_task_waits_until_its_last_question_is_answered(driver: Driver) -> None:
    task_id = driver.submit([{"id": "a"}, {"id": "b"}])
    for assignment in driver.claim():
        driver.settle(assignment, Ask(text="?"))
    first, second = driver.query("select id from questions order by id")
    questions.answer(driver.engine, "default", first["id"], "yes", "me")
    assert driver.task(task_id)["state"] == "waiting"
    questions.answer(driver.engine, "default", second["id"], "yes", "me")
    assert driver.task(task_id)["state"] == "running"


def test_a_second_cancel_moves_no_times(driver: Driver) -> None:
    task_id = driver.submit([{"id": "a"}])
    driver.claim()
    tasks.cancel(driver.engine, "default", task_id, "me")
    when = "select s.cancel_requested_at as step, t.cancel_requested_at as task from steps s, tasks t"
    before = driver.query(when)
    with undone(driver) as connection:
        run(connection, "cancel", task_id=task_id, actor="me", error='{"code": "x", "text": "x"}')
        assert query(connection, when) == before


def test_what_was_answered_stays_answered_after_a_cancel(driver: Driver) -> None:
    question = asked(driver)
    questions.answer(driver.engine, "default", question, "yes", "me")
    (task,) = driver.query("select id from tasks")
    tasks.cancel(driver.engine, "default", task["id"], "me")
    assert driver.query("select state from questions") == [{"state": "answered"}]


def test_an_optional_dead_step_neither_dooms_nor_holds_up_what_is_revived(driver: Driver) -> None:
    task_id = driver.submit([{"id": "a"}, {"id": "o", "optional": True}, {"id": "b", "needs": ["a", "o"]}])
    for assignment in driver.claim("a", "o"):
        driver.settle(assignment, Bury(failure=BROKEN))
    (letter,) = driver.query("select l.id from dead_letters l join steps s on s.id = l.step_id where s.key = 'a'")
    dead_letters.redrive(driver.engine, "default", [letter["id"]], "me")
    assert driver.states(task_id) == {"a": "ready", "b": "blocked", "o": "dead"}
    assert driver.finish_all() == ["a", "b"]
    assert driver.task(task_id)["state"] == "succeeded"


def test_a_dead_letter_is_redriven_by_one_of_two(driver: Driver) -> None:
    """By the statement alone; `dead_letters.redrive` has locked the task before."""
    parameters: dict[str, Any] = {"ids": [dead(driver)], "actor": "me", "per_second": None, "before": 0}

    def redrive() -> Any:
        with transaction(driver.engine) as connection:
            return run(connection, "redrive", **{**parameters, "actor": "somebody later"})

    with overtaken(driver, lambda connection: run(connection, "redrive", **parameters)) as late:
        second = late(redrive)
        (task,) = query(late.connection, "select id from tasks")
        run(late.connection, "revive", ids=[task["id"]])
    assert second.result() == []
    assert driver.query("select epoch from steps where key = 'a'") == [{"epoch": 3}]
    assert driver.query("select closed_by from dead_letters") == [{"closed_by": "me"}]


def test_a_step_is_skipped_once(driver: Driver) -> None:
    driver.submit([{"id": "a"}, {"id": "b"}, {"id": "c", "needs": ["a", "b"]}])
    for assignment in driver.claim():
        driver.settle(assignment, Bury(failure=BROKEN))
    assert len(driver.query("select 1 from events where type = 'step.skipped'")) == 1


def test_a_deadline_says_nothing_to_what_has_ended_or_is_being_cancelled(driver: Driver) -> None:
    driver.submit([{"id": "a"}], deadline_seconds=1000)
    driver.finish_all()
    running = driver.submit([{"id": "a"}], deadline_seconds=1000)
    (a,) = driver.claim()
    tasks.cancel(driver.engine, "default", running, "me")
    driver.query("update tasks set deadline_at = clock_timestamp() - interval '1 second'")
    assert tasks.cancel_overdue(driver.engine) == 0
    driver.settle(a, Abandon())


def test_two_last_steps_cannot_both_believe_that_the_other_is_open(driver: Driver) -> None:
    task_id = driver.submit([{"id": "a"}, {"id": "b"}])
    a, b = driver.claim()
    with overtaken(driver, lambda connection: settle(connection, [Settling(a, Accept(output=1))])) as late:
        second = late(lambda: driver.settle(b)[0])
    assert second.result() is True
    assert driver.task(task_id)["state"] == "succeeded"


def test_two_answers_cannot_both_believe_that_the_other_question_is_open(driver: Driver) -> None:
    task_id = driver.submit([{"id": "a"}, {"id": "b"}])
    for assignment in driver.claim():
        driver.settle(assignment, Ask(text="?"))
    first, second = driver.query("select id from questions order by id")

    def answer_first(connection: Connection) -> None:
        run(connection, "lock_tasks", ids=[task_id])
        run(connection, "answer", id=first["id"], tenant="default", answer="yes", actor="me")

    with overtaken(driver, answer_first) as late:
        late(lambda: questions.answer(driver.engine, "default", second["id"], "yes", "me"))
    assert driver.task(task_id)["state"] == "running"


def test_only_one_relay_works_at_a_time(driver: Driver) -> None:
    """Two would each believe the window of a queue to be their own."""
    driver.submit([{"id": "a"}])
    driver.query("update outbox set published_at = null, publish_count = 0")
    with undone(driver) as connection:
        query(connection, "select pg_advisory_xact_lock(%(key)s)", key=RELAY_LOCK)
        assert not relay(driver.engine, Nobody(), republish_seconds=60, window=10).acted
    assert relay(driver.engine, Nobody(), republish_seconds=60, window=10).dispatched == 1


class Nobody:
    """A broker that takes everything and keeps nothing."""

    def publish(self, messages: Any) -> None:
        pass


@pytest.mark.parametrize("column", ["lease_until = clock_timestamp() + interval '1 minute'", "state = 'cancelled'"])
def test_only_a_step_that_could_be_claimed_is_staged(driver: Driver, column: str) -> None:
    driver.submit([{"id": "a"}])
    driver.settle(driver.claim()[0], Return(failure=BROKEN, after_seconds=60))
    past = "clock_timestamp() - interval '1 second'"
    held = ", state = 'running'" if column.startswith("lease") else f", {ENDED}"
    with undone(driver) as connection:
        query(connection, f"update steps set due_at = {past}, {column}{held}")
        assert run(connection, "stage", limit=10) == []


def test_a_lease_that_holds_is_not_listed_as_lapsed(driver: Driver) -> None:
    driver.submit([{"id": "a"}])
    (a,) = driver.claim()
    with undone(driver) as connection:
        assert run(connection, "expired", limit=10) == []
    driver.settle(a)


def test_what_is_woken_twice_is_counted_once(driver: Driver) -> None:
    """A settlement and a redrive of the same need: what has begun is not touched, and no count goes below none."""
    driver.submit([{"id": "a"}, {"id": "b", "needs": ["a"]}])
    (a,) = driver.claim()
    driver.settle(a)
    with undone(driver) as connection:
        rows = run(connection, "wake", ids=[a.step_id], direct=20)
        assert [row["step_id"] for row in rows] == [None]
        assert query(connection, "select state, epoch, needs_left from steps where key = 'b'") == [
            {"state": "ready", "epoch": 1, "needs_left": 0}
        ]


def test_a_claim_tries_two_attempts_apart(driver: Driver) -> None:
    """A message of an old epoch in the same batch as the new one brings nothing more than the new one would."""
    driver.submit([{"id": "a"}])
    (a,) = driver.claim()
    driver.settle(a, Return(failure=BROKEN))
    (again,) = driver.claim_refs([StepRef(id=a.step_id, epoch=epoch) for epoch in (a.epoch, a.epoch + 1)])
    assert (again.epoch, again.attempt) == (a.epoch + 1, 2)
    driver.settle(again)


def test_two_needs_that_end_together_are_both_counted(driver: Driver) -> None:
    task_id = driver.submit([{"id": "a"}, {"id": "b"}, {"id": "c", "needs": ["a", "b"]}])
    a, b = driver.claim()
    with overtaken(driver, lambda connection: settle(connection, [Settling(a, Accept(output=1))])) as late:
        second = late(lambda: driver.settle(b)[0])
    assert second.result() is True
    assert driver.states(task_id)["c"] == "ready"


def test_nobody_approves_what_nobody_reviews(driver: Driver) -> None:
    driver.submit([{"id": "a", "agent": "careful"}])
    (a,) = driver.claim()
    driver.settle(a, Propose(output=1))
    unclaimed = a.model_copy(update={"epoch": a.epoch + 1, "role": Role.REVIEWER})
    assert not driver.settle(unclaimed, Approve())[0]
    assert driver.query("select state from proposals") == [{"state": "pending"}]


def test_only_a_step_under_review_is_approved(driver: Driver) -> None:
    driver.submit([{"id": "a", "agent": "careful"}])
    (a,) = driver.claim()
    with undone(driver) as connection:
        query(
            connection,
            """insert into proposals (step_id, epoch, tenant_id, task_id, state)
            select id, epoch, tenant_id, task_id, 'pending' from steps""",
        )
        assert not settle(connection, [Settling(a, Approve())]).done
        assert states(connection) == ["running"]


def test_what_is_skipped_is_not_woken(driver: Driver) -> None:
    driver.submit([{"id": "a"}, {"id": "b"}, {"id": "c", "needs": ["a", "b"]}])
    a, b = driver.claim()
    driver.settle(a, Bury(failure=BROKEN))
    with undone(driver) as connection:
        query(connection, "update steps set needs_left = 1 where key = 'c'")
        assert settle(connection, [Settling(b, Accept(output=1))]).done
        assert states(connection) == ["dead", "succeeded", "skipped"]
