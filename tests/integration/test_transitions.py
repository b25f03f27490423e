"""Each transition on a real Postgres; after every test no safety invariant may be violated (see conftest)."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from contracts.errors import Conflict, Failure, InvalidInput, NotFound, Unavailable
from contracts.messages import StepRef
from contracts.plans import Plan, Step
from contracts.settlements import Abandon, Accept, AcceptPlan, Approve, Ask, Bury, Propose, Return
from contracts.verdicts import Reason
from shared_state import dead_letters, events, questions, sweep, tasks
from shared_state.attempts import Held, extend
from shared_state.engine import transaction
from shared_state.outbox import messages_for, relay, stage
from shared_state.prune import prune
from shared_state.statements import query
from shared_state.tasks import Created, Submission, submit
from tests.integration.driver import Driver

BROKEN = Failure(code="agent.error", text="it broke")


@pytest.fixture
def driver(engine: Engine) -> Driver:
    return Driver(engine)


def diamond(driver: Driver, **fields: Any) -> Any:
    return driver.submit(
        [
            {"id": "a"},
            {"id": "b", "needs": ["a"], **fields},
            {"id": "c", "needs": ["a"]},
            {"id": "d", "needs": ["b", "c"]},
        ]
    )


def test_a_diamond_runs_parents_first_and_hands_on_accepted_outputs(driver: Driver) -> None:
    task_id = diamond(driver)
    (a,) = driver.claim()
    assert driver.settle(a)[0]
    b, c = driver.claim()
    assert b.inputs == {"a": {"from": "a"}}
    driver.settle(b)
    assert driver.ready() == []
    driver.settle(c)
    (d,) = driver.claim()
    assert d.inputs == {"b": {"from": "b"}, "c": {"from": "c"}}
    driver.settle(d)
    task = driver.task(task_id)
    assert (task["state"], task["degraded"], task["error"]) == ("succeeded", False, None)
    assert set(driver.states(task_id).values()) == {"succeeded"}


def test_a_claim_is_won_once_and_only_at_the_named_epoch(driver: Driver) -> None:
    driver.submit([{"id": "a"}])
    (row,) = driver.ready()
    ref = StepRef(id=row["step_id"], epoch=row["epoch"])
    assert driver.claim_refs([StepRef(id=ref.id, epoch=ref.epoch + 1), StepRef(id=ref.id, epoch=0)]) == []
    with ThreadPoolExecutor(8) as pool:
        won = [each for each in pool.map(lambda n: driver.claim_refs([ref], f"w{n}"), range(8)) if each]
    assert len(won) == 1
    assert driver.claim_refs([ref]) == []
    driver.settle(won[0][0])


def test_a_settlement_is_written_once(driver: Driver) -> None:
    driver.submit([{"id": "a"}])
    (a,) = driver.claim()
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda n: driver.settle(a, Accept(output=n))[0], range(8)))
    assert done.count(True) == 1


def test_a_zombie_is_fenced_off(driver: Driver) -> None:
    driver.submit([{"id": "a"}])
    (old,) = driver.claim()
    driver.lapse()
    assert sweep.sweep(driver.engine)[0] == 1
    (new,) = driver.claim(worker="w2")
    assert new.epoch > old.epoch
    assert not driver.settle(old)[0]
    assert not driver.settle(old, Return(failure=BROKEN))[0]
    assert not driver.settle(old, Bury(failure=BROKEN))[0]
    assert not driver.settle(old, Propose(output=1))[0]
    assert not driver.settle(old, Ask(text="?"))[0]
    assert driver.settle(new)[0]


def test_a_lease_that_is_extended_is_not_swept(driver: Driver) -> None:
    driver.submit([{"id": "a"}])
    (a,) = driver.claim()
    driver.lapse()
    kept = extend(driver.engine, [Held(a.step_id, a.epoch, '{"text": "half"}')], lease_seconds=30)
    assert kept == {(a.step_id, a.epoch): False}
    assert sweep.sweep(driver.engine)[0] == 0
    assert driver.query("select progress from attempts")[0]["progress"] == {"text": "half"}
    assert extend(driver.engine, [Held(a.step_id, a.epoch + 1)], lease_seconds=30) == {}
    driver.settle(a)


def test_a_sweep_does_not_take_what_was_extended_since_it_looked(driver: Driver) -> None:
    driver.submit([{"id": "a"}])
    (a,) = driver.claim()
    assert not driver.settle(a, Return(failure=BROKEN, expired=True))[0]
    assert not driver.settle(a, Bury(failure=BROKEN, expired=True))[0]
    assert driver.settle(a)[0]


def test_a_dead_workers_steps_are_ready_at_once(driver: Driver) -> None:
    driver.submit([{"id": "a"}, {"id": "b"}])
    (a,) = driver.claim("a", worker="w1")
    (b,) = driver.claim("b", worker="w2")
    wakeups = sweep.expire_worker(driver.engine, "w1")
    assert [wakeup.step_id for wakeup in wakeups] == [a.step_id]
    assert not driver.settle(a)[0]
    assert driver.settle(b)[0]


def test_a_worker_frozen_in_the_middle_of_a_transaction_keeps_no_others_steps_from_being_recovered(
    driver: Driver,
) -> None:
    driver.submit([{"id": "a"}, {"id": "b"}])
    (a, _) = sorted(driver.claim(), key=lambda each: each.key)
    driver.lapse()
    with transaction(driver.engine) as frozen:
        query(frozen, "update steps set lease_until = lease_until where id = %(id)s", id=a.step_id)
        assert sweep.sweep(driver.engine)[0] == 1
    assert driver.query("select key from steps where lease_until is not null") == [{"key": "a"}]
    assert sweep.sweep(driver.engine)[0] == 1


def test_a_lapsed_lease_of_another_worker_is_not_told_to_have_died_with_it(driver: Driver) -> None:
    driver.submit([{"id": "a"}, {"id": "b"}])
    driver.claim("a", worker="w1")
    driver.claim("b", worker="w2")
    driver.lapse()
    sweep.expire_worker(driver.engine, "w1")
    sweep.sweep(driver.engine)
    codes = driver.query("select worker, error ->> 'code' as code from attempts order by worker")
    assert codes == [{"worker": "w1", "code": "worker.died"}, {"worker": "w2", "code": "lease.expired"}]


def test_messages_that_a_dead_worker_had_received_are_published_again_at_once(driver: Driver) -> None:
    driver.submit([{"id": "a"}])
    sink = Sink()
    assert relay(driver.engine, sink, republish_seconds=60, window=10).dispatched == 0
    sweep.expire_worker(driver.engine, "w1")
    assert relay(driver.engine, sink, republish_seconds=60, window=10).dispatched == 1


def test_a_lapsed_lease_has_the_messages_that_its_worker_had_received_published_again(driver: Driver) -> None:
    driver.submit([{"id": "a"}, {"id": "b"}])
    driver.claim("a")
    sweep.sweep(driver.engine)
    assert relay(driver.engine, Sink(), republish_seconds=60, window=10).dispatched == 0
    driver.lapse()
    sweep.sweep(driver.engine)
    assert relay(driver.engine, Sink(), republish_seconds=60, window=10).dispatched == 1


def test_old_finished_tasks_are_deleted_and_nothing_else(driver: Driver) -> None:
    old, recent, live, dead = (driver.submit([{"id": "a"}, {"id": "b", "needs": ["a"]}]) for _ in range(4))
    for assignment in driver.claim("a"):
        settlement = Bury(failure=BROKEN) if assignment.task_id == dead else None
        if assignment.task_id != live:
            driver.settle(assignment, settlement)
    for assignment in driver.claim("b"):
        driver.settle(assignment)
    driver.query(
        "update tasks set finished_at = clock_timestamp() - interval '31 days' where id = any (%(ids)s)",
        ids=[old, dead],
    )
    assert prune(driver.engine, retention_days=30)["tasks"] == 1
    left = {row["id"] for row in driver.query("select id from tasks")}
    assert left == {recent, live, dead}
    for table in ("steps", "attempts", "outputs", "dependencies", "events"):
        assert driver.query(f"select count(*) as n from {table} where task_id = %(id)s", id=old)[0]["n"] == 0


def test_attempts_are_bounded_and_then_a_dead_letter(driver: Driver) -> None:
    task_id = driver.submit([{"id": "a"}, {"id": "b", "needs": ["a"]}, {"id": "c"}])
    for _ in range(3):
        driver.claim("a")
        driver.lapse()
        sweep.sweep(driver.engine)
    assert driver.states(task_id) == {"a": "dead", "b": "skipped", "c": "ready"}
    assert driver.task(task_id)["state"] == "running"
    driver.finish_all()
    task = driver.task(task_id)
    assert task["state"] == "failed"
    assert (task["error"]["code"], task["error"]["step"]) == ("lease.expired", "a")


def test_a_retry_waits_for_its_time(driver: Driver) -> None:
    driver.submit([{"id": "a"}])
    (a,) = driver.claim()
    driver.settle(a, Return(failure=BROKEN, after_seconds=60))
    assert driver.ready() == []
    assert stage(driver.engine) == 0
    driver.query("update steps set due_at = clock_timestamp() - interval '1 second'")
    assert stage(driver.engine) == 1
    (again,) = driver.claim()
    assert again.attempt == 2
    driver.settle(again)


def test_a_rejected_output_is_quarantined_and_goes_back_with_reasons(driver: Driver) -> None:
    task_id = driver.submit([{"id": "a"}])
    (a,) = driver.claim()
    reason = Reason(code="gate", where="/x", text="wrong")
    driver.settle(a, Return(failure=BROKEN, rejected=True, output={"x": 1}, feedback=(reason,)))
    (again,) = driver.claim()
    assert (again.feedback, again.rejections, again.attempt) == ((reason,), 1, 1)
    driver.settle(again)
    assert driver.query("select body, state from proposals") == [{"body": {"x": 1}, "state": "rejected"}]
    assert driver.task(task_id)["state"] == "succeeded"


def test_an_unreviewed_output_reaches_nobody(driver: Driver) -> None:
    task_id = driver.submit([{"id": "a", "agent": "careful"}, {"id": "b", "needs": ["a"]}])
    (a,) = driver.claim()
    assert a.reviewer == "judge"
    driver.settle(a, Propose(output={"v": 1}))
    assert driver.states(task_id) == {"a": "reviewing", "b": "blocked"}
    (review,) = driver.claim()
    assert (review.role, review.agent, review.proposal) == ("reviewer", "judge", {"v": 1})
    reason = Reason(code="review.rejected", text="no")
    driver.settle(review, Return(failure=BROKEN, rejected=True, feedback=(reason,)))
    (second,) = driver.claim()
    assert second.feedback == (reason,)
    driver.settle(second, Propose(output={"v": 2}))
    (review,) = driver.claim()
    driver.settle(review, Return(to="reviewing", failure=BROKEN))
    (review,) = driver.claim()
    assert review.attempt == 2
    driver.settle(review, Approve())
    (b,) = driver.claim()
    assert b.inputs == {"a": {"v": 2}}
    driver.settle(b)
    assert driver.task(task_id)["state"] == "succeeded"


def test_a_review_is_fenced_and_cancelled_like_any_attempt(driver: Driver) -> None:
    task_id = driver.submit([{"id": "a", "agent": "careful"}])
    driver.settle(driver.claim()[0], Propose(output={"v": 1}))
    (old,) = driver.claim()
    driver.lapse()
    sweep.sweep(driver.engine)
    (new,) = driver.claim(worker="w2")
    assert not driver.settle(old, Approve())[0]
    tasks.cancel(driver.engine, "default", task_id, "me")
    assert not driver.settle(new, Approve())[0]
    assert driver.settle(new, Abandon())[0]
    assert driver.query("select state from proposals") == [{"state": "rejected"}]


def test_an_attempt_of_a_live_task_cannot_be_abandoned(driver: Driver) -> None:
    driver.submit([{"id": "a"}])
    (a,) = driver.claim()
    assert not driver.settle(a, Abandon())[0]
    driver.settle(a)


def test_a_cancelled_attempt_is_not_taken_for_lapsed_while_it_lives(driver: Driver) -> None:
    task_id = driver.submit([{"id": "a"}])
    (a,) = driver.claim()
    tasks.cancel(driver.engine, "default", task_id, "me")
    assert not driver.settle(a, Abandon(expired=True))[0]
    assert driver.settle(a, Abandon())[0]


def test_the_database_itself_refuses_an_input_that_nobody_accepted(driver: Driver) -> None:
    driver.submit([{"id": "a", "agent": "careful"}, {"id": "b", "needs": ["a"]}])
    (a,) = driver.claim()
    driver.settle(a, Propose(output={"v": 1}))
    with pytest.raises(Exception, match="foreign key"):
        driver.query("update dependencies set input_epoch = %(epoch)s", epoch=a.epoch)


def test_a_plan_is_expanded_once_and_within_the_limit(driver: Driver) -> None:
    task_id = driver.created(Submission(team="planned", input={}))
    assert driver.task(task_id)["state"] == "planning"
    (root,) = driver.claim()
    plan = Plan(steps=(Step(id="x", agent="work"), Step(id="y", agent="work", needs=("x",))))
    assert driver.settle(root, AcceptPlan(plan=plan))[0]
    assert not driver.settle(root, AcceptPlan(plan=plan))[0]
    assert driver.task(task_id)["step_count"] == 3
    assert driver.finish_all() == ["x", "y"]
    assert driver.task(task_id)["state"] == "succeeded"
    too_many = Plan(steps=tuple(Step(id=f"s{n}", agent="work") for n in range(6)))
    driver.created(Submission(team="planned", input={}))
    (root,) = driver.claim()
    with pytest.raises(Exception, match="step_limit"):
        driver.settle(root, AcceptPlan(plan=too_many))


def test_a_zombie_planner_and_a_cancelled_one_expand_nothing(driver: Driver) -> None:
    plan = AcceptPlan(plan=Plan(steps=(Step(id="x", agent="work"),)))
    task_id = driver.created(Submission(team="planned", input={}))
    (old,) = driver.claim()
    driver.lapse()
    sweep.sweep(driver.engine)
    (new,) = driver.claim(worker="w2")
    assert not driver.settle(old, plan)[0]
    tasks.cancel(driver.engine, "default", task_id, "me")
    assert not driver.settle(new, plan)[0]
    assert not driver.settle(old, Abandon())[0]
    assert driver.settle(new, Abandon())[0]
    assert driver.task(task_id)["step_count"] == 1


def test_a_question_holds_nothing_and_its_answer_goes_on(driver: Driver) -> None:
    task_id = driver.submit([{"id": "a"}])
    (a,) = driver.claim()
    driver.settle(a, Ask(text="which one?"))
    assert driver.task(task_id)["state"] == "waiting"
    (question,) = driver.query("select id, text from questions")
    with pytest.raises(NotFound):
        questions.answer(driver.engine, "other", question["id"], "no", "me")
    assert len(questions.answer(driver.engine, "default", question["id"], "the left", "me")) == 1
    with pytest.raises(Conflict):
        questions.answer(driver.engine, "default", question["id"], "the right", "me")
    assert driver.task(task_id)["state"] == "running"
    (again,) = driver.claim()
    assert [(each.question, each.answer) for each in again.answers] == [("which one?", "the left")]
    assert again.questions == 1
    driver.settle(again)
    assert driver.task(task_id)["state"] == "succeeded"


def test_a_cancel_stops_everything_and_nothing_commits_after_it(driver: Driver) -> None:
    task_id = driver.submit([{"id": "a"}, {"id": "b", "needs": ["a"]}, {"id": "c"}])
    (a,) = driver.claim("a")
    tasks.cancel(driver.engine, "default", task_id, "me")
    assert driver.task(task_id)["state"] == "cancelling"
    assert driver.states(task_id) == {"a": "running", "b": "cancelled", "c": "cancelled"}
    assert driver.ready() == []
    for settlement in (
        Accept(output=1),
        Propose(output=1),
        Return(failure=BROKEN),
        Bury(failure=BROKEN),
        Ask(text="?"),
    ):
        assert not driver.settle(a, settlement)[0]
    assert extend(driver.engine, [Held(a.step_id, a.epoch)], lease_seconds=30) == {(a.step_id, a.epoch): True}
    assert driver.settle(a, Abandon())[0]
    assert driver.task(task_id)["state"] == "cancelled"
    tasks.cancel(driver.engine, "default", task_id, "me")
    with pytest.raises(NotFound):
        tasks.cancel(driver.engine, "other", task_id, "me")


def test_a_cancel_of_a_dead_workers_step_ends_when_its_lease_lapses(driver: Driver) -> None:
    task_id = driver.submit([{"id": "a"}])
    driver.claim()
    tasks.cancel(driver.engine, "default", task_id, "me")
    driver.lapse()
    sweep.sweep(driver.engine)
    assert driver.task(task_id)["state"] == "cancelled"


def test_cancel_and_commit_race_to_exactly_one_outcome(driver: Driver) -> None:
    for _ in range(15):
        task_id = diamond(driver)
        (a,) = driver.claim("a")
        barrier = threading.Barrier(2)

        def commit(a: Any = a, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            return driver.settle(a)[0]

        def stop(task_id: Any = task_id, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            tasks.cancel(driver.engine, "default", task_id, "me")

        with ThreadPoolExecutor(2) as pool:
            won, _ = pool.submit(commit), pool.submit(stop)
            committed = won.result()
        if not committed:
            driver.settle(a, Abandon())
        assert driver.task(task_id)["state"] == "cancelled"
        assert driver.states(task_id)["a"] == ("succeeded" if committed else "cancelled")
        assert driver.ready() == []


def test_an_overdue_task_is_ended(driver: Driver) -> None:
    task_id = driver.submit([{"id": "a"}], deadline_seconds=1000)
    assert tasks.cancel_overdue(driver.engine) == 0
    driver.query("update tasks set deadline_at = clock_timestamp() - interval '1 second'")
    assert tasks.cancel_overdue(driver.engine) == 1
    task = driver.task(task_id)
    assert (task["state"], task["error"]["code"]) == ("cancelled", "task.deadline")


def test_an_optional_dead_step_degrades_its_task(driver: Driver) -> None:
    task_id = diamond(driver, optional=True)
    (a,) = driver.claim()
    driver.settle(a)
    (b,) = driver.claim("b")
    driver.settle(b, Bury(failure=BROKEN))
    (c,) = driver.claim("c")
    driver.settle(c)
    (d,) = driver.claim()
    assert d.inputs == {"c": {"from": "c"}}
    driver.settle(d)
    task = driver.task(task_id)
    assert (task["state"], task["degraded"]) == ("succeeded", True)


def test_a_redrive_revives_the_task_and_what_was_skipped(driver: Driver) -> None:
    task_id = diamond(driver)
    driver.settle(driver.claim()[0])
    (b,) = driver.claim("b")
    driver.settle(b, Bury(failure=BROKEN))
    assert driver.states(task_id)["d"] == "skipped"
    driver.settle(driver.claim("c")[0])
    assert driver.task(task_id)["state"] == "failed"
    (letter,) = driver.query("select id from dead_letters")
    with pytest.raises(NotFound):
        dead_letters.redrive(driver.engine, "other", [letter["id"]], "me")
    done = dead_letters.redrive(driver.engine, "default", [letter["id"]], "me", edit={"n": 1})
    assert done.redriven == [letter["id"]]
    assert dead_letters.redrive(driver.engine, "default", [letter["id"]], "me").unchanged == [letter["id"]]
    assert driver.states(task_id) == {"a": "succeeded", "b": "ready", "c": "succeeded", "d": "blocked"}
    assert driver.task(task_id)["state"] == "running"
    (b,) = driver.claim()
    assert (b.input, b.attempt) == ({"n": 1}, 1)
    driver.settle(b)
    assert driver.finish_all() == ["d"]
    assert driver.task(task_id)["state"] == "succeeded"


def test_what_needs_two_dead_steps_stays_skipped_until_both_are_redriven(driver: Driver) -> None:
    task_id = driver.submit([{"id": "a"}, {"id": "b"}, {"id": "c", "needs": ["a", "b"]}])
    for assignment in driver.claim():
        driver.settle(assignment, Bury(failure=BROKEN))
    first, second = driver.query("select id from dead_letters order by id")
    dead_letters.redrive(driver.engine, "default", [first["id"]], "me")
    assert driver.states(task_id)["c"] == "skipped"
    dead_letters.redrive(driver.engine, "default", [second["id"]], "me")
    assert driver.states(task_id)["c"] == "blocked"
    driver.finish_all()
    assert driver.task(task_id)["state"] == "succeeded"


def test_redrive_and_a_siblings_commit_count_right(driver: Driver) -> None:
    """The recount of a revived step and the commit of its other need meet; neither may be lost."""
    for _ in range(10):
        task_id = driver.submit([{"id": "a"}, {"id": "b"}, {"id": "c", "needs": ["a", "b"]}])
        (a,) = driver.claim("a")
        driver.settle(a, Bury(failure=BROKEN))
        (b,) = driver.claim("b")
        (letter,) = driver.query("select id from dead_letters where task_id = %(id)s", id=task_id)
        barrier = threading.Barrier(2)

        def redrive(letter: Any = letter, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            dead_letters.redrive(driver.engine, "default", [letter["id"]], "me")

        def commit(b: Any = b, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            driver.settle(b)

        with ThreadPoolExecutor(2) as pool:
            for future in [pool.submit(redrive), pool.submit(commit)]:
                future.result()
        assert driver.finish_all() == ["a", "c"]
        assert driver.task(task_id)["state"] == "succeeded"


def test_a_discard_closes_for_good(driver: Driver) -> None:
    task_id = driver.submit([{"id": "a"}])
    driver.settle(driver.claim()[0], Bury(failure=BROKEN))
    (letter,) = driver.query("select id from dead_letters")
    dead_letters.discard(driver.engine, "default", letter["id"], "not needed", "me")
    assert driver.states(task_id) == {"a": "failed"}
    with pytest.raises(Conflict):
        dead_letters.discard(driver.engine, "default", letter["id"], "again", "me")
    assert dead_letters.redrive(driver.engine, "default", [letter["id"]], "me").redriven == []


def test_an_idempotency_key_makes_one_task(driver: Driver) -> None:
    one = Submission(team="planned", input={"n": 1}, idempotency_key="k")
    other = Submission(team="planned", input={"n": 2}, idempotency_key="k")
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: submit(driver.engine, "default", [one]).results[0], range(8)))
    ids = {result.task_id for result in results if isinstance(result, Created)}
    assert len(ids) == 1
    assert [result.replayed for result in results if isinstance(result, Created)].count(False) == 1
    (refused,) = submit(driver.engine, "default", [other]).results
    assert isinstance(refused, InvalidInput)
    assert refused.field == "idempotency_key"


def test_a_list_of_submissions_is_answered_in_order(driver: Driver) -> None:
    good = Submission(team="planned")
    cyclic = Plan(steps=(Step(id="a", agent="work", needs=("b",)), Step(id="b", agent="work", needs=("a",))))
    results = submit(
        driver.engine,
        "default",
        [good, Submission(team="nobody"), Submission(team="plain", plan=cyclic), Submission(team="plain"), good],
    ).results
    assert [getattr(result, "field", "ok") for result in results] == ["ok", "team", "plan.steps", "plan", "ok"]
    assert driver.query("select count(*) as n from tasks")[0]["n"] == sum(isinstance(r, Created) for r in results)


def test_events_are_read_without_missing_a_late_commit(driver: Driver) -> None:
    """A row with a smaller id that commits later must still be read."""
    task_id = driver.submit([{"id": "a"}])
    insert = "insert into events (tenant_id, task_id, type) values ('default', %(id)s, %(type)s)"
    with transaction(driver.engine) as slow:
        query(slow, insert, id=task_id, type="late")
        driver.query(insert, id=task_id, type="early")
        seen, cursor = read_types(driver, task_id, None)
        assert "early" not in seen
    more, _ = read_types(driver, task_id, cursor)
    assert more == ["late", "early"]


def read_types(driver: Driver, task_id: Any, after: str | None) -> tuple[list[str], str | None]:
    with transaction(driver.engine) as connection:
        found = events.read(connection, "default", task_id, after, 100)
    return [event.type for event in found], found[-1].cursor if found else after


class Sink:
    def __init__(self) -> None:
        self.keys: list[Any] = []

    def publish(self, messages: Any) -> None:
        self.keys.extend(ref.id for message in messages for ref in message.steps)


def test_the_relay_is_fair_between_tasks(driver: Driver) -> None:
    driver.submit([{"id": f"s{n}"} for n in range(500)])
    small = driver.submit([{"id": f"s{n}"} for n in range(30)])
    driver.query("update outbox set published_at = null, publish_count = 0")
    sink = Sink()
    done = relay(driver.engine, sink, republish_seconds=60, window=60)
    assert done.dispatched == 60
    mine = driver.query("select id from steps where task_id = %(id)s", id=small)
    assert len({row["id"] for row in mine} & set(sink.keys)) == 30
    assert relay(driver.engine, sink, republish_seconds=60, window=60).dispatched == 0


def test_the_relay_publishes_again_what_stays_unclaimed(driver: Driver) -> None:
    driver.submit([{"id": "a"}])
    sink = Sink()
    assert relay(driver.engine, sink, republish_seconds=10, window=10).republished == 0
    driver.query("update outbox set published_at = clock_timestamp() - interval '11 seconds'")
    assert relay(driver.engine, sink, republish_seconds=10, window=10).republished == 1
    driver.query("update outbox set published_at = clock_timestamp() - interval '11 seconds'")
    assert relay(driver.engine, sink, republish_seconds=10, window=10).republished == 0
    assert len(sink.keys) == 1


def test_an_outage_of_the_broker_does_not_use_up_the_relays_patience(driver: Driver) -> None:
    class Away:
        def publish(self, messages: Any) -> None:
            raise Unavailable(f"{len(messages)} not sent")

    driver.submit([{"id": "a"}])
    driver.query("update outbox set published_at = clock_timestamp() - interval '1 hour', publish_count = 5")
    assert relay(driver.engine, Away(), republish_seconds=10, window=10).republished == 0
    sink = Sink()
    assert relay(driver.engine, sink, republish_seconds=10, window=10).dispatched == 1
    assert len(sink.keys) == 1


def test_a_backlog_shares_messages_and_an_idle_queue_does_not(driver: Driver) -> None:
    wakeups = submit(
        driver.engine, "default",
        [Submission(team="plain", plan=Plan(steps=tuple(Step(id=f"s{n}", agent="work") for n in range(3))))],
    ).wakeups  # fmt: skip
    assert [len(message.steps) for message in messages_for(wakeups)] == [1, 1, 1]
    assert [len(message.steps) for message in messages_for(wakeups, together=2)] == [2, 1]
    assert [len(message.steps) for message in messages_for([wakeups[0]] * 24, together=2)] == [6] * 4
    assert max(len(message.steps) for message in messages_for([wakeups[0]] * 640)) == 20


def test_unknown_ids(driver: Driver) -> None:
    with pytest.raises(NotFound):
        tasks.cancel(driver.engine, "default", uuid4(), "me")
    with pytest.raises(NotFound):
        dead_letters.redrive(driver.engine, "default", [uuid4()], "me")


def test_an_illegal_move_is_caught(driver: Driver) -> None:
    """The guard of all the other tests: see tests/legal_moves.py."""
    driver.submit([{"id": "a"}])
    driver.finish_all()
    with pytest.raises(Exception, match="illegal move of steps: succeeded -> ready"):
        driver.query("update steps set state = 'ready', finished_at = null")
