"""What people do is a line in the log each: with who did it and its ids, once it is committed, and never twice."""

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine
from structlog.testing import capture_logs

from contracts.errors import Conflict, Failure, NotFound
from contracts.plans import Plan
from contracts.settlements import Ask, Bury
from shared_state import dead_letters, dead_messages, forks, pauses, presence, questions, tasks
from shared_state.broker.quarantine import describe
from shared_state.dead_messages import Rewritten
from shared_state.forks import Forking
from shared_state.pauses import Target
from shared_state.transitions import Act

from .driver import Driver

TRACE = "a" * 32
TRACEPARENT = f"00-{TRACE}-{'b' * 16}-01"
WRITTEN = "what-a-person-wrote"
UNABLE = Bury(failure=Failure(code="agent.unable", text="no"))


@pytest.fixture
def driver(engine: Engine) -> Driver:
    return Driver(engine)


@contextmanager
def told() -> Iterator[list[MutableMapping[str, Any]]]:
    with capture_logs() as lines:
        yield lines
    assert WRITTEN not in str(lines)


def submit(driver: Driver, *steps: str) -> UUID:
    plan = Plan.model_validate({"steps": [{"id": step, "agent": "work"} for step in steps]})
    submission = tasks.Submission(team="plain", plan=plan)
    (made,) = tasks.submit(driver.engine, "default", [submission], traceparents=[TRACEPARENT]).results
    assert isinstance(made, tasks.Created), made
    return made.task_id


def place(driver: Driver, task_id: UUID, step: str | None = None) -> dict[str, Any]:
    of_task = {"tenant": "default", "task_id": str(task_id), "trace_id": TRACE}
    if step is None:
        return of_task
    sql = "select id, epoch from steps where task_id = %(task)s and key = %(key)s"
    (row,) = driver.query(sql, task=task_id, key=step)
    return {**of_task, "step_id": str(row["id"]), "epoch": row["epoch"], "agent": "work"}


def letter_of(driver: Driver, task_id: UUID) -> UUID:
    sql = "select id from dead_letters where task_id = %(task)s and state = 'open'"
    (row,) = driver.query(sql, task=task_id)
    return UUID(str(row["id"]))


def raw_letter(driver: Driver) -> UUID:
    dead_letters.record_raw(driver.engine, [describe("execute", "message.signature", "who is it?", b"?")])
    (row,) = driver.query("select id from dead_letters where step_id is null and state = 'open'")
    return UUID(str(row["id"]))


def line(act: Act, where: dict[str, Any], **ids: Any) -> dict[str, Any]:
    return {"event": act, "log_level": "info", "actor": "ann", **where, **ids}


def test_a_cancel(driver: Driver) -> None:
    task = submit(driver, "a")
    with told() as lines:
        tasks.cancel(driver.engine, "default", task, "ann")
        tasks.cancel(driver.engine, "default", task, "bob")
    assert lines == [line("task.cancelling", place(driver, task), code="task.cancelled")]


def test_a_fork(driver: Driver) -> None:
    task = submit(driver, "a")
    forking = Forking.model_validate({"from": "a", "edit": {"n": WRITTEN}, "idempotency_key": "once"})
    with told() as lines:
        for _ in range(2):
            made = forks.fork(driver.engine, "default", task, forking, "ann", traceparent=TRACEPARENT).created.task_id
    assert lines == [line("task.forked", place(driver, made), from_task_id=str(task))]


def test_pauses_and_resumptions(driver: Driver) -> None:
    task = submit(driver, "a")
    targets = (Target(task_id=task), Target(team="plain"), Target(team="plain", agent="work"))
    with told() as lines:
        for target in targets:
            for _ in range(2):
                pauses.pause(driver.engine, "default", target, WRITTEN, "ann")
        for target in targets:
            for _ in range(2):
                pauses.resume(driver.engine, "default", target, "ann")
    of_task, of_team, of_agent = place(driver, task), {"tenant": "default"}, {"tenant": "default", "agent": "work"}
    assert lines == [
        line("task.paused", of_task),
        line("team.paused", of_team, team="plain"),
        line("team.paused", of_agent, team="plain"),
        line("task.resumed", of_task),
        line("team.resumed", of_team, team="plain"),
        line("team.resumed", of_agent, team="plain"),
    ]


def test_an_answer(driver: Driver) -> None:
    task = submit(driver, "a")
    driver.settle(driver.claim("a")[0], Ask(text=WRITTEN))
    (row,) = driver.query("select id from questions where task_id = %(task)s", task=task)
    with told() as lines:
        questions.answer(driver.engine, "default", row["id"], WRITTEN, "ann")
        with pytest.raises(Conflict):
            questions.answer(driver.engine, "default", row["id"], WRITTEN, "bob")
    assert lines == [line("step.answered", place(driver, task, "a"), question_id=str(row["id"]))]


def test_redrives(driver: Driver) -> None:
    """One as it is, one edited before, one edited on the way, and all that fit at a rate."""
    task = submit(driver, "a")
    driver.settle(driver.claim("a")[0], UNABLE)
    for edit in (None, {"n": WRITTEN}):
        letter = letter_of(driver, task)
        with told() as lines:
            dead_letters.redrive(driver.engine, "default", [letter], "ann", edit=edit, dry_run=True)
            assert lines == []
            dead_letters.redrive(driver.engine, "default", [letter], "ann", edit=edit)
            dead_letters.redrive(driver.engine, "default", [letter], "bob")
        acts: list[Act] = ["step.redriven"] if edit is None else ["step.edited", "step.redriven"]
        where = place(driver, task, "a")
        assert lines == [line(act, where, dead_letter_id=str(letter)) for act in acts]
        driver.settle(driver.claim("a")[0], UNABLE)
    letter = letter_of(driver, task)
    with told() as lines:
        dead_letters.edit(driver.engine, "default", letter, {"n": WRITTEN}, "ann")
    assert lines == [line("step.edited", place(driver, task, "a"), dead_letter_id=str(letter))]
    with told() as lines:
        dead_letters.redrive_many(driver.engine, "default", [letter, uuid4()], "ann", per_second=1, dry_run=True)
        dead_letters.redrive_many(driver.engine, "default", [letter, uuid4()], "ann", per_second=1)
    assert lines == [line("step.redriven", place(driver, task, "a"), dead_letter_id=str(letter))]


def test_discards(driver: Driver) -> None:
    task = submit(driver, "a")
    driver.settle(driver.claim("a")[0], UNABLE)
    raw = raw_letter(driver)
    letter = letter_of(driver, task)
    with told() as lines:
        for each in (letter, raw):
            dead_letters.discard(driver.engine, "default", each, WRITTEN, "ann")
            with pytest.raises(Conflict):
                dead_letters.discard(driver.engine, "default", each, WRITTEN, "bob")
    assert lines == [
        line("step.discarded", place(driver, task, "a"), dead_letter_id=str(letter)),
        line("message.discarded", {"tenant": "default"}, dead_letter_id=str(raw)),
    ]


def test_a_message_written_anew(driver: Driver) -> None:
    task = submit(driver, "a")
    step = place(driver, task, "a")["step_id"]
    raw = raw_letter(driver)
    message = Rewritten.model_validate({"steps": [{"id": step}]})
    with told() as lines:
        for dry_run in (True, False, False):
            dead_messages.redrive_message(driver.engine, "default", raw, message, "ann", dry_run=dry_run)
    assert lines == [line("message.redriven", {"tenant": "default"}, dead_letter_id=str(raw), step_ids=[step])]


def test_a_drain(driver: Driver) -> None:
    presence.report(driver.engine, "w1", host="h", pid=1, queues=["execute"], slots=1, busy=0, state="running")
    with told() as lines:
        presence.ask_to_drain(driver.engine, "w1", "ann")
        with pytest.raises(NotFound):
            presence.ask_to_drain(driver.engine, "nobody", "ann")
    assert lines == [line("worker.drain_asked", {}, worker="w1")]


def test_a_passed_deadline_is_a_line_too(driver: Driver) -> None:
    task = submit(driver, "a")
    driver.query("update tasks set deadline_at = clock_timestamp() - interval '1 s' where id = %(id)s", id=task)
    with told() as lines:
        assert tasks.cancel_overdue(driver.engine) == 1
        assert tasks.cancel_overdue(driver.engine) == 0
    assert lines == [line("task.cancelling", place(driver, task), actor="deadline", code="task.deadline")]
