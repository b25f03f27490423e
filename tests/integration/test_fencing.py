"""Two who settle, claim or stop the same step at the same time: exactly one of them is written, whoever is first."""

from typing import Any

import pytest
from sqlalchemy import Engine

from contracts.assignments import Assignment
from contracts.errors import Failure
from contracts.messages import StepRef
from contracts.plans import Plan, Step
from contracts.settlements import (
    Abandon,
    Accept,
    AcceptPlan,
    Approve,
    Ask,
    Bury,
    Propose,
    Return,
    Settlement,
)  # fmt: skip
from shared_state import dead_letters, sweep, tasks
from shared_state.attempts import Held, Settling, claim, extend, settle
from shared_state.connection import Connection
from shared_state.engine import is_conflict, retrying
from shared_state.statements import query, run
from tests.integration.driver import Driver
from tests.integration.overtaken import overtaken

BROKEN = Failure(code="agent.error", text="it broke")
PLAN = Plan(steps=(Step(id="x", agent="work"),))


@pytest.fixture
def driver(engine: Engine) -> Driver:
    return Driver(engine)


def held(driver: Driver, settlement: Settlement | None) -> Assignment:
    """An attempt of the kind that may be settled so."""
    if isinstance(settlement, AcceptPlan):
        driver.created(tasks.Submission(team="planned"))
        return driver.claim()[0]
    reviewed = isinstance(settlement, Approve | Propose) or getattr(settlement, "to", "") == "reviewing"
    driver.submit([{"id": "a", "agent": "careful" if reviewed else "work"}, {"id": "b", "needs": ["a"]}])
    (assignment,) = driver.claim()
    if isinstance(settlement, Approve) or getattr(settlement, "to", "") == "reviewing":
        driver.settle(assignment, Propose(output={"by": assignment.epoch}))
        (assignment,) = driver.claim()
    return assignment


SETTLEMENTS: dict[str, Settlement] = {
    "accept": Accept(output={"by": "?"}),
    "accept_plan": AcceptPlan(plan=PLAN),
    "approve": Approve(),
    "ask": Ask(text="?"),
    "bury": Bury(failure=BROKEN, output={"by": "?"}),
    "propose": Propose(output={"by": "?"}),
    "return": Return(failure=BROKEN, output={"by": "?"}),
    "return a review": Return(to="reviewing", failure=BROKEN),
}


def signed(settlement: Settlement, who: str) -> Settlement:
    """The same settlement, with its author in the output."""
    return settlement.model_copy(update={"output": {"by": who}}) if getattr(settlement, "output", None) else settlement


@pytest.mark.parametrize("name", [name for name in SETTLEMENTS if name != "accept_plan"])
def test_a_zombie_in_the_same_batch_writes_nothing(driver: Driver, name: str) -> None:
    """A worker that lost a step and got it back may settle both attempts in one transaction."""
    settlement = SETTLEMENTS[name]
    old = held(driver, settlement)
    driver.lapse()
    sweep.sweep(driver.engine)
    (new,) = driver.claim("a")
    items = [Settling(old, signed(settlement, "zombie")), Settling(new, signed(settlement, "holder"))]
    settled = retrying(driver.engine, lambda connection: settle(connection, items))
    assert settled.done == {(new.step_id, new.epoch)}
    (first,) = driver.query("select state, error ->> 'code' as code from attempts where epoch = %(n)s", n=old.epoch)
    assert first == {"state": "expired", "code": "lease.expired"}
    bodies = driver.query("select body from outputs union all select body from proposals")
    assert {"by": "zombie"} not in [row["body"] for row in bodies]


@pytest.mark.parametrize("name", SETTLEMENTS)
def test_who_comes_second_writes_nothing(driver: Driver, name: str) -> None:
    """The second has already looked when the first commits: it must look again."""
    assignment = held(driver, SETTLEMENTS[name])
    first = Return(to="reviewing" if assignment.role == "reviewer" else "ready", failure=BROKEN)
    with overtaken(driver, lambda connection: settle(connection, [Settling(assignment, first)])) as late:
        second = late(lambda: driver.settle(assignment, SETTLEMENTS[name])[0])
    assert second.result() is False
    assert driver.query("select count(*) as n from outputs where epoch = %(n)s", n=assignment.epoch)[0]["n"] == 0
    assert driver.query("select 1 from dead_letters") == []


@pytest.mark.parametrize("name", [name for name in SETTLEMENTS if name != "accept_plan"])
def test_who_has_succeeded_settles_no_more(driver: Driver, name: str) -> None:
    """A step that succeeded keeps the epoch of its last attempt: only its state stops that one's second word."""
    assignment = held(driver, SETTLEMENTS[name])
    assert driver.settle(assignment, Approve() if assignment.role == "reviewer" else Accept(output={"by": "first"}))[0]
    before = driver.query("select body from outputs union all select body from proposals")
    assert not driver.settle(assignment, signed(SETTLEMENTS[name], "second"))[0]
    assert driver.states(assignment.task_id)["a"] == "succeeded"
    assert driver.query("select body from outputs union all select body from proposals") == before
    assert driver.query("select 1 from dead_letters") == []


@pytest.mark.parametrize("name", [name for name in SETTLEMENTS if name not in ("accept_plan", "bury", "ask")])
def test_a_cancel_that_comes_first_wins(driver: Driver, name: str) -> None:
    """Those that lock their task meet the cancel there; the others at their step's row."""
    assignment = held(driver, SETTLEMENTS[name])
    with overtaken(driver, lambda connection: cancel_in(connection, assignment)) as late:
        second = late(lambda: driver.settle(assignment, SETTLEMENTS[name])[0])
    assert second.result() is False
    assert driver.settle(assignment, Abandon())[0]


def test_a_commit_that_a_cancel_waited_for_came_before_it(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the times in the rows too: see invariant I16, which the fixture checks. And neither is a deadlock's victim."""
    assignment = held(driver, None)
    errors: list[Exception] = []

    def note(error: Exception) -> bool:
        errors.append(error)
        return is_conflict(error)

    monkeypatch.setattr("shared_state.engine.is_conflict", note)
    lock = "select id from steps where id = %(id)s for update"

    def first(connection: Connection) -> None:
        query(connection, lock, id=assignment.step_id)

    with overtaken(driver, first) as late:
        late(lambda: tasks.cancel(driver.engine, "default", assignment.task_id, "me"))
        assert settle(late.connection, [Settling(assignment, Accept(output=1))]).done
    assert driver.states(assignment.task_id)["a"] == "succeeded"
    assert driver.task(assignment.task_id)["state"] == "cancelled"
    assert errors == []


def test_who_abandons_second_writes_nothing(driver: Driver) -> None:
    assignment = held(driver, None)
    tasks.cancel(driver.engine, "default", assignment.task_id, "me")
    items = [Settling(assignment, Abandon())]
    with overtaken(driver, lambda connection: settle(connection, items)) as late:
        second = late(lambda: driver.settle(assignment, Abandon())[0])
    assert second.result() is False


def test_a_claim_that_comes_second_gets_nothing(driver: Driver) -> None:
    driver.submit([{"id": "a"}])
    (row,) = driver.ready()
    refs = [StepRef(id=row["step_id"], epoch=row["epoch"])]
    with overtaken(driver, lambda connection: claim(connection, refs, worker="w1", lease_seconds=30)) as late:
        second = late(lambda: driver.claim_refs(refs, "w2"))
    assert second.result() == []
    assert driver.query("select worker from steps") == [{"worker": "w1"}]


def test_a_claim_that_meets_a_cancel_gets_nothing(driver: Driver) -> None:
    task_id = driver.submit([{"id": "a"}])
    (row,) = driver.ready()
    refs = [StepRef(id=row["step_id"], epoch=row["epoch"])]
    with overtaken(driver, lambda connection: stop(connection, task_id)) as late:
        second = late(lambda: driver.claim_refs(refs, "w2"))
    assert second.result() == []
    assert driver.task(task_id)["state"] == "cancelled"


def test_a_heartbeat_that_comes_after_the_sweep_holds_nothing(driver: Driver) -> None:
    assignment = held(driver, None)
    driver.lapse()
    items = [Settling(assignment, Return(failure=BROKEN, expired=True))]
    with overtaken(driver, lambda connection: settle(connection, items)) as late:
        beat = Held(assignment.step_id, assignment.epoch)
        second = late(lambda: extend(driver.engine, [beat], lease_seconds=30))
    assert second.result() == {}
    assert driver.query("select lease_until from steps where key = 'a'") == [{"lease_until": None}]


def test_a_sweep_that_comes_after_the_heartbeat_takes_nothing(driver: Driver) -> None:
    assignment = held(driver, None)
    driver.lapse()
    beat = {"ids": [assignment.step_id], "epochs": [assignment.epoch], "progress": [None], "lease_seconds": 30.0}
    with overtaken(driver, lambda connection: run(connection, "heartbeat", **beat)) as late:
        second = late(lambda: sweep.sweep(driver.engine)[0])
    assert second.result() == 0
    assert driver.settle(assignment)[0]


def test_a_redrive_that_meets_a_cancel_is_refused(driver: Driver) -> None:
    task_id = driver.submit([{"id": "a"}, {"id": "c"}])
    driver.settle(driver.claim("a")[0], Bury(failure=BROKEN))
    (letter,) = driver.query("select id from dead_letters")
    with overtaken(driver, lambda connection: stop(connection, task_id)) as late:
        second = late(lambda: dead_letters.redrive(driver.engine, "default", [letter["id"]], "me").redriven)
    with pytest.raises(Exception, match="cancelled"):
        second.result()
    assert driver.states(task_id) == {"a": "dead", "c": "cancelled"}


def cancel_in(connection: Connection, assignment: Assignment) -> None:
    stop(connection, assignment.task_id)


def stop(connection: Connection, task_id: Any) -> None:
    """What `tasks.cancel` does, in a transaction that the test commits."""
    run(connection, "lock_tasks", ids=[task_id])
    run(connection, "cancel", task_id=task_id, actor="me", error='{"code": "task.cancelled", "text": "x"}')
    run(connection, "clear_cancelled", task_id=task_id)
    run(connection, "settle_tasks", ids=[task_id])
