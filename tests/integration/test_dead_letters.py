"""Dead letters as a place to work: sorted out, edited, put back at a rate, written anew, told as one story."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine

from contracts.errors import Conflict, Failure, InvalidInput, NotFound
from contracts.settlements import Bury
from contracts.teams import Agent, Schemas, Team
from shared_state import dead_letters, dead_messages, outbox, pauses, prune, tasks, views
from shared_state.broker.quarantine import describe
from shared_state.dead_messages import Rewritten
from shared_state.engine import new_id, transaction
from shared_state.statements import run
from shared_state.teams import apply
from shared_state.views.dead_letters import Wanted

from .driver import TEAM, Driver

UNABLE = Failure(code="agent.unable", text="It has no Colour.", detail="a trace")
CLOSED = {"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": False}
STRICT = Team(name="strict", agents={"count": Agent(call="m:f")}, schemas={"count": Schemas(input=CLOSED)})


@pytest.fixture
def driver(engine: Engine) -> Driver:
    return Driver(engine)


def bury(driver: Driver, *keys: str, failure: Failure = UNABLE) -> list[UUID]:
    """Give up on these ready steps (all, when none is named); the dead letters, oldest first."""
    claimed = driver.claim(*keys)
    for assignment in claimed:
        driver.settle(assignment, Bury(failure=failure))
    found = driver.query(
        "select id from dead_letters where state = 'open' and step_id = any (%(ids)s) order by id",
        ids=[assignment.step_id for assignment in claimed],
    )
    return [row["id"] for row in found]


def raw_letter(driver: Driver, raw: bytes = b"?") -> UUID:
    dead_letters.record_raw(driver.engine, [describe("execute", "message.signature", "who is it?", raw)])
    return UUID(str(driver.query("select id from dead_letters where step_id is null order by id desc")[0]["id"]))


def read(driver: Driver, letter: UUID, *, tenant: str = "default", detailed: bool = True) -> Any:
    with transaction(driver.engine) as connection:
        return views.dead_letters.read(connection, tenant, letter, detailed=detailed)


def found(driver: Driver, tenant: str = "default", **wanted: Any) -> list[UUID]:
    with transaction(driver.engine) as connection:
        page = views.dead_letters.page(connection, tenant, Wanted(**wanted), limit=None)
        same = views.dead_letters.ids(connection, tenant, Wanted(**wanted), limit=1000)
        counted = views.dead_letters.counts(connection, tenant, Wanted(**wanted))
    ids = [UUID(each["id"]) for each in page]
    assert ids == same[::-1]
    assert sum(each["count"] for each in counted) == len(ids)
    return ids


def everything(driver: Driver) -> list[Any]:
    names = ("tasks", "steps", "outbox", "dead_letters", "dead_letter_edits", "events")
    return [driver.query(f"select * from {name} order by 1") for name in names]


def test_one_page_tells_the_whole_story(driver: Driver) -> None:
    task_id = driver.submit(
        [{"id": "a", "input": {"n": 1}}, {"id": "b", "needs": ["a"]}, {"id": "c", "needs": ["b"]}, {"id": "d"}],
        goal="Count.",
    )
    (letter,) = bury(driver, "a")
    dead_letters.note(driver.engine, "default", letter, "looks odd", "ann")
    dead_letters.note(driver.engine, "default", letter, "it is", "bob")
    story = read(driver, letter)
    (attempt,) = story["attempts"]
    assert (attempt["worker"], attempt["error"]["code"], attempt["error"]["detail"]) == (
        "w1",
        "agent.unable",
        "a trace",
    )
    assert [(each["step_key"], each["state"]) for each in story["blocks"]] == [("b", "skipped"), ("c", "skipped")]
    assert (story["task"]["id"], story["task"]["state"], story["task"]["goal"]) == (str(task_id), "running", "Count.")
    assert story["message"]["kind"] == "execute"
    assert story["message"]["steps"] == [{"id": story["step_id"], "epoch": attempt["epoch"]}]
    assert (story["step_input"], story["step_state"]) == ({"n": 1}, "dead")
    assert [(note["author"], note["text"]) for note in story["notes"]] == [("ann", "looks odd"), ("bob", "it is")]
    assert "detail" not in read(driver, letter, detailed=False)["attempts"][0]["error"]
    with pytest.raises(NotFound):
        read(driver, letter, tenant="elsewhere")
    with pytest.raises(NotFound):
        dead_letters.note(driver.engine, "elsewhere", letter, "me too", "eve")
    driver.finish_all()


def test_every_filter_finds_and_leaves_out(driver: Driver) -> None:
    first = driver.submit([{"id": "a"}])
    (one,) = bury(driver)
    driver.submit([{"id": "b", "agent": "careful"}])
    (two,) = bury(driver, failure=Failure(code="gate.rejected", text="100% wrong"))
    three = raw_letter(driver)
    driver.query("update dead_letters set created_at = created_at - interval '1 day' where id = %(id)s", id=one)
    (moment,) = (
        row["created_at"] for row in driver.query("select created_at from dead_letters where id = %(i)s", i=two)
    )
    assert found(driver) == [three, two, one]
    assert found(driver, reason="gate") == found(driver, reason="gate.rejected") == [two]
    assert found(driver, reason="gate.") == []
    assert found(driver, agent="careful") == [two]
    assert found(driver, team="plain") == [two, one]
    assert found(driver, task=first) == [one]
    assert found(driver, text="100% WRONG") == [two]
    assert found(driver, text="%") == [two]
    assert found(driver, queue="execute") == [three, two, one]
    assert found(driver, queue="plan") == []
    assert found(driver, since=moment) == [three, two]
    assert found(driver, until=moment) == [one]
    assert found(driver, state="open", since=moment - timedelta(hours=1), until=moment) == []
    assert found(driver, "elsewhere") == []
    dead_letters.discard(driver.engine, "default", three, "stray", "me")
    assert found(driver, state="discarded") == [three]


def test_an_edit_fits_the_schema_and_what_was_before_stays_visible(driver: Driver) -> None:
    apply(driver.engine, "default", STRICT)
    driver.created(tasks.Submission(team="strict", input={"n": 1}))
    (letter,) = bury(driver)
    for wrong in ({"n": "two"}, {"m": 2}):
        with pytest.raises(InvalidInput) as refused:
            dead_letters.edit(driver.engine, "default", letter, wrong, "ann")
        assert refused.value.field.startswith("input")
    with pytest.raises(NotFound):
        dead_letters.edit(driver.engine, "elsewhere", letter, {"n": 2}, "eve")
    dead_letters.edit(driver.engine, "default", letter, {"n": 2}, "ann")
    assert read(driver, letter)["step_input"] == {"n": 2}
    done = dead_letters.redrive(driver.engine, "default", [letter], "bob", edit={"n": 3})
    assert done.redriven == [letter]
    history = [(edit["editor"], edit["before"], edit["after"]) for edit in read(driver, letter)["edits"]]
    assert history == [("ann", {"n": 1}, {"n": 2}), ("bob", {"n": 2}, {"n": 3})]
    with pytest.raises(Conflict):
        dead_letters.edit(driver.engine, "default", letter, {"n": 4}, "late")
    (again,) = driver.claim()
    assert again.input == {"n": 3}
    kinds = [row["type"] for row in driver.query("select type from events where step_id is not null order by id")]
    assert kinds.count("step.edited") == 2
    driver.settle(again)


def test_a_second_click_with_an_edit_changes_nothing(driver: Driver) -> None:
    driver.submit([{"id": "a", "input": {"n": 1}}])
    (letter,) = bury(driver)
    dead_letters.redrive(driver.engine, "default", [letter], "me")
    before = everything(driver)
    again = dead_letters.redrive(driver.engine, "default", [letter], "me", edit={"n": 2})
    assert (again.redriven, again.unchanged) == ([], [letter])
    assert everything(driver) == before


def test_many_are_sorted_out_and_a_dry_run_changes_nothing(driver: Driver) -> None:
    driver.submit([{"id": "a"}])
    (good,) = bury(driver)
    driver.submit([{"id": "b"}])
    (closed,) = bury(driver)
    dead_letters.redrive(driver.engine, "default", [closed], "me")
    stopped = driver.submit([{"id": "c"}, {"id": "d"}])
    (cancelled,) = bury(driver, "c")
    tasks.cancel(driver.engine, "default", stopped, "me")
    raw, unknown = raw_letter(driver), uuid4()
    everyone = [good, closed, cancelled, raw, unknown, good]
    before = everything(driver)
    planned = dead_letters.redrive_many(driver.engine, "default", everyone, "me", dry_run=True)
    assert everything(driver) == before
    done = dead_letters.redrive_many(driver.engine, "default", everyone, "me")
    for each in (planned, done):
        assert (each.redriven, each.unchanged) == ([good], [closed])
        assert {letter: error.code for letter, error in each.refused.items()} == {
            cancelled: "conflict", raw: "conflict", unknown: "not_found",
        }  # fmt: skip
    assert [wakeup.epoch for wakeup in done.wakeups] == [3]
    stranger = dead_letters.redrive_many(driver.engine, "elsewhere", [good], "eve")
    assert [error.code for error in stranger.refused.values()] == ["not_found"]
    driver.finish_all()


def test_at_a_rate_every_step_gets_a_time_of_its_own(driver: Driver) -> None:
    """More of them than one transaction takes; the stager queues each when its time has come."""
    task_id = driver.submit([{"id": f"s{number:03}"} for number in range(dead_letters.CHUNK + 50)])
    letters = bury(driver)
    done = dead_letters.redrive_many(driver.engine, "default", letters, "me", per_second=20)
    assert (len(done.redriven), done.wakeups) == (len(letters), [])
    assert driver.ready() == []
    rows = driver.query("select due_at - clock_timestamp() as left from steps order by due_at")
    times = [row["left"].total_seconds() for row in rows]
    assert all(times[index + 20] - times[index] > 0.95 for index in range(len(times) - 20))
    assert len(letters) / 20 - 1 < times[-1] < len(letters) / 20 + 5
    driver.query("update steps set due_at = due_at - interval '5 seconds'")
    staged = outbox.stage(driver.engine)
    assert 90 < staged < len(letters)
    driver.query("update steps set due_at = clock_timestamp() where due_at is not null")
    assert staged + outbox.stage(driver.engine) == len(letters)
    driver.finish_all()
    assert driver.task(task_id)["state"] == "succeeded"


def test_a_deadline_that_has_passed_is_lifted_and_one_to_come_is_kept(driver: Driver) -> None:
    task_id = driver.submit([{"id": "a"}], deadline_seconds=1000.0)
    (letter,) = bury(driver)
    dead_letters.redrive(driver.engine, "default", [letter], "me")
    assert driver.task(task_id)["deadline_at"] is not None
    (letter,) = bury(driver)
    driver.query("update tasks set deadline_at = clock_timestamp() - interval '1 second'")
    dead_letters.redrive(driver.engine, "default", [letter], "me")
    assert tasks.cancel_overdue(driver.engine) == 0
    driver.finish_all()
    assert driver.task(task_id)["state"] == "succeeded"


def test_a_cancel_that_comes_first_wins_over_a_redrive(driver: Driver) -> None:
    """The redrive has read that the task runs, and waits for the lock that the cancel holds."""
    task_id = driver.submit([{"id": "a"}, {"id": "b"}])
    (letter,) = bury(driver, "a")
    waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    with ThreadPoolExecutor(1) as pool:
        with transaction(driver.engine) as connection:
            run(connection, "cancel", task_id=task_id, actor="me", error='{"code": "task.cancelled", "text": "enough"}')
            run(connection, "clear_cancelled", task_id=task_id)
            run(connection, "settle_tasks", ids=[task_id])
            redrive = pool.submit(dead_letters.redrive, driver.engine, "default", [letter], "me")
            deadline = threading.Event()
            for _ in range(500):
                if driver.query(waiting):
                    break
                deadline.wait(0.02)
            else:
                raise AssertionError("the redrive does not wait for the task's lock")
        with pytest.raises(Conflict):
            redrive.result(10)
    assert driver.states(task_id) == {"a": "dead", "b": "cancelled"}


# Bytes that were no message


@pytest.fixture
def lost(driver: Driver) -> tuple[UUID, UUID]:
    """Bytes on a queue, and a step that waits for a worker."""
    driver.submit([{"id": "a"}])
    step_id = UUID(str(driver.ready()[0]["step_id"]))
    return raw_letter(driver, json.dumps({"steps": [{"id": str(step_id)}], "signature": "x"}).encode()), step_id


def rewrite(driver: Driver, letter: UUID, message: Any, tenant: str = "default", **kind: bool) -> Any:
    return dead_messages.redrive_message(
        driver.engine, tenant, letter, Rewritten.model_validate(message), "ann", **kind
    )


def test_bytes_are_written_anew_for_a_step_that_waits(driver: Driver, lost: tuple[UUID, UUID]) -> None:
    letter, step_id = lost
    message = {**read(driver, letter)["message"], "kind": "execute", "queue": "execute", "id": str(new_id())}
    before = everything(driver)
    assert rewrite(driver, letter, message, dry_run=True).redriven == [letter]
    assert everything(driver) == before
    done = rewrite(driver, letter, message)
    assert [(wakeup.step_id, wakeup.epoch, wakeup.queue) for wakeup in done.wakeups] == [(step_id, 1, "execute")]
    assert rewrite(driver, letter, message).unchanged == [letter]
    story = read(driver, letter)
    (edit,) = story["edits"]
    assert (story["state"], edit["editor"], edit["before"], edit["after"]["steps"]) == (
        "redriven", "ann", None, [{"id": str(step_id)}],
    )  # fmt: skip
    driver.finish_all()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"steps": [{"id": str(uuid4())}]}, "message.steps.0.id"),
        ({"epoch": 7}, "message.steps.0.epoch"),
        ({"kind": "plan"}, "message.kind"),
        ({"queue": "review"}, "message.queue"),
    ],
)
def test_a_message_written_anew_must_be_true(
    driver: Driver, lost: tuple[UUID, UUID], change: dict[str, Any], field: str
) -> None:
    letter, step_id = lost
    step = {"id": str(step_id), **({"epoch": change.pop("epoch")} if "epoch" in change else {})}
    with pytest.raises(InvalidInput) as refused:
        rewrite(driver, letter, {"steps": [step], **change})
    assert refused.value.field == field
    assert read(driver, letter)["state"] == "open"


def test_a_message_written_anew_names_only_ones_own_waiting_steps(driver: Driver, lost: tuple[UUID, UUID]) -> None:
    letter, step_id = lost
    with pytest.raises(NotFound):
        rewrite(driver, letter, {"steps": [{"id": str(step_id)}]}, "elsewhere")
    driver.query("insert into tenants (id) values ('elsewhere')")
    driver.query("update dead_letters set tenant_id = 'elsewhere'")
    with pytest.raises(InvalidInput):
        rewrite(driver, letter, {"steps": [{"id": str(step_id)}]}, "elsewhere")
    driver.query("update dead_letters set tenant_id = 'default'")
    driver.claim()
    with pytest.raises(InvalidInput, match="no step of yours"):
        rewrite(driver, letter, {"steps": [{"id": str(step_id)}]})


@pytest.mark.parametrize(
    ("target", "concurrency", "words"),
    [
        ({"task_id": None}, None, "held: its task was paused by bob.*`orchestrator resume {task}`"),
        ({"team": "plain"}, None, "held: team 'plain' was paused by bob.*`orchestrator resume --team plain`"),
        (
            {"team": "plain", "agent": "work"},
            None,
            "held: agent 'work' of team 'plain' was paused by bob.*--agent work`",
        ),
        (None, 1, "held: all 1 places of agent 'work' of team 'plain' are taken.*when one is free"),
    ],
)
def test_a_message_written_anew_for_a_step_that_is_held_is_refused_with_what_holds_it(
    driver: Driver, lost: tuple[UUID, UUID], target: dict[str, Any] | None, concurrency: int | None, words: str
) -> None:
    letter, step_id = lost
    (task,) = [row["task_id"] for row in driver.ready()]
    if target is not None:
        given = {name: value or task for name, value in target.items()}
        pauses.pause(driver.engine, "default", pauses.Target(**given), "", "bob")
    else:
        agents = {**TEAM.agents, "work": TEAM.agents["work"].model_copy(update={"concurrency": concurrency})}
        apply(driver.engine, "default", TEAM.model_copy(update={"agents": agents}))
    driver.claim()  # a claim parks what it may not take
    assert [row["step_id"] for row in driver.query("select step_id from parked")] == [step_id]
    before = everything(driver)
    with pytest.raises(InvalidInput, match=f"steps.0.id: the step is {words.format(task=task)}") as refused:
        rewrite(driver, letter, {"steps": [{"id": str(step_id)}]})
    assert (refused.value.field, everything(driver)) == ("message.steps.0.id", before)
    driver.query("insert into tenants (id) values ('elsewhere')")
    driver.query("update dead_letters set tenant_id = 'elsewhere'")
    with pytest.raises(InvalidInput, match="no step of yours"):
        rewrite(driver, letter, {"steps": [{"id": str(step_id)}]}, "elsewhere")


def test_what_is_of_a_step_has_no_message_and_what_is_bytes_no_input(driver: Driver) -> None:
    driver.submit([{"id": "a"}])
    (letter,) = bury(driver)
    with pytest.raises(Conflict):
        rewrite(driver, letter, {"steps": [{"id": str(uuid4())}]})
    with pytest.raises(Conflict):
        dead_letters.edit(driver.engine, "default", raw_letter(driver), {}, "me")


# Retention


def test_closed_dead_letters_are_kept_as_long_as_they_should_be(driver: Driver) -> None:
    old, young = driver.submit([{"id": "a"}]), driver.submit([{"id": "a"}])
    for letter in bury(driver):
        dead_letters.discard(driver.engine, "default", letter, "enough", "me")
    raw, still_open = raw_letter(driver), raw_letter(driver)
    dead_letters.discard(driver.engine, "default", raw, "stray", "me")
    driver.query("update tasks set finished_at = finished_at - interval '40 days'")
    driver.query(
        "update dead_letters set closed_at = closed_at - interval '100 days' where task_id = %(old)s or id = %(raw)s",
        old=old,
        raw=raw,
    )
    gone = prune.prune(driver.engine, retention_days=30, dead_letter_retention_days=90)
    assert (gone["tasks"], gone["dead_letters"]) == (1, 1)
    assert [row["id"] for row in driver.query("select id from tasks")] == [young]
    left = driver.query("select id from dead_letters where step_id is null")
    assert [row["id"] for row in left] == [still_open]
