"""What the tables themselves refuse, whoever writes, and what goes with what: the last guards, under all statements."""

from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine

from contracts.assignments import Assignment
from contracts.settlements import Accept, Approve, Propose
from contracts.teams import Role
from shared_state.engine import transaction
from shared_state.prune import prune
from shared_state.statements import query
from tests.integration.driver import Driver


@pytest.fixture
def driver(engine: Engine) -> Driver:
    return Driver(engine)


def begin_all(driver: Driver) -> Assignment:
    """Steps done, at work, reviewed and blocked; the one at work."""
    driver.submit([
        {"id": "a"},
        {"id": "b", "needs": ["a"]},
        {"id": "c", "agent": "careful"},
        {"id": "d"},
        {"id": "e", "needs": ["b"]},
    ])  # fmt: skip
    claimed = {each.key: each for each in driver.claim("a", "c", "d")}
    driver.settle(claimed["a"])
    driver.settle(claimed["c"], Propose(output={"of": "c"}))
    return claimed["d"]


def finish_all(driver: Driver) -> None:
    while assignments := driver.claim():
        for each in assignments:
            driver.settle(each, Approve() if each.role is Role.REVIEWER else Accept(output={"from": each.key}))


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("tasks", "state = 'done'"),
        ("tasks", "state = 'succeeded'"),
        ("tasks", "finished_at = clock_timestamp()"),
        ("tasks", "step_count = -1"),
        ("steps", "role = 'reviewer'"),
        ("steps", "state = 'done'"),
        ("steps", "state = 'failed'"),
        ("steps", "needs_left = -1"),
        ("steps", "lease_until = clock_timestamp()"),
        ("steps", "state = 'running', lease_until = null"),
        ("steps", "finished_at = clock_timestamp()"),
        ("attempts", "role = 'judge'"),
        ("attempts", "state = 'done'"),
        ("attempts", "finished_at = clock_timestamp()"),
        ("attempts", "state = 'failed'"),
        ("outbox", "kind = 'think'"),
        ("proposals", "state = 'maybe'"),
    ],
)
def test_a_row_that_may_not_be_is_refused(driver: Driver, table: str, change: str) -> None:
    begin_all(driver)
    which = {"steps": "state = 'blocked'", "attempts": "state = 'running'"}.get(table, "true")
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        change_freely(driver, f"update {table} set {change} where {which}")
    assert refused.value.diag.constraint_name == f"{table}_lawful"


def test_a_task_does_not_grow_past_its_limit(driver: Driver) -> None:
    begin_all(driver)
    with pytest.raises(psycopg.errors.CheckViolation, match="tasks_step_limit"):
        driver.query("update tasks set step_count = step_limit + 1")


@pytest.mark.parametrize("table", ["outputs", "proposals"])
def test_what_a_step_made_is_of_an_attempt(driver: Driver, table: str) -> None:
    begin_all(driver)
    columns = {"outputs": "accepted_at", "proposals": "'accepted' as state"}[table]
    into = {"outputs": "accepted_at", "proposals": "state"}[table]
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        driver.query(
            f"""insert into {table} (step_id, epoch, tenant_id, task_id, {into})
            select s.id, 77, s.tenant_id, s.task_id, {columns}
            from steps s cross join (select clock_timestamp() as accepted_at) n where s.key = 'd'"""
        )


def test_nothing_of_a_task_stays_when_it_goes(driver: Driver) -> None:
    driver.settle(begin_all(driver))
    finish_all(driver)
    driver.submit([{"id": "another"}])
    before = rows_by_table(driver)
    assert {"events", "steps", "attempts", "outputs", "proposals", "dependencies"} <= before.keys()
    driver.query("update tasks set finished_at = '2020-01-01' where finished_at is not null")
    assert prune(driver.engine, retention_days=1)["tasks"] == 1
    assert rows_by_table(driver) == {"tasks": 1, "steps": 1, "outbox": 1, "events": 1}


def test_nothing_of_a_task_stays_when_somebody_deletes_it_in_the_middle(driver: Driver) -> None:
    begin_all(driver)
    before = rows_by_table(driver)
    assert {"outbox", "attempts", "outputs", "proposals", "dependencies"} <= before.keys()
    driver.query("delete from tasks")
    assert rows_by_table(driver) == {}


def test_nothing_of_a_step_stays_when_somebody_deletes_it(driver: Driver) -> None:
    begin_all(driver)
    for key in "ebdca":
        driver.query("delete from steps where key = %(key)s", key=key)
    assert rows_by_table(driver).keys() == {"tasks", "events"}
    driver.query("delete from tasks")


def change_freely(driver: Driver, sql: str) -> None:
    """Without the tests' own triggers, which watch over moves."""
    with transaction(driver.engine) as connection:
        query(connection, "set local session_replication_role = replica")
        query(connection, sql)


def rows_by_table(driver: Driver) -> dict[str, Any]:
    """How many rows each table has that belong to some task; tables without any are left out."""
    named = driver.query(
        """select c.table_name as name from information_schema.columns c
        join information_schema.tables t using (table_schema, table_name)
        where c.table_schema = 'public' and t.table_type = 'BASE TABLE' and c.column_name = 'task_id'"""
    )
    tables = ["tasks", *(row["name"] for row in named)]
    counts = {name: driver.query(f"select count(*)::int as n from {name}")[0]["n"] for name in tables}
    return {name: count for name, count in counts.items() if count}
