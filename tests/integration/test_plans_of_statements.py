"""Every hot statement finds its rows by index, as Postgres plans it where estimates are worst: on empty tables, and
on tables that were analysed when nothing was open."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Engine

from shared_state.statements import load
from shared_state.sweep import LAPSE
from tests.integration.driver import Driver

HOT = (
    "accept", "accept_plan", "admit", "approve", "claim", "create_steps", "create_tasks", "expired", "heartbeat",
    "judge", "lock_tasks", "park", "propose", "record_call", "release", "settle_tasks", "stage", "view_conversation",
    "wake",
)  # fmt: skip


def explain(engine: Engine, text: str) -> dict[str, Any]:
    """The generic plan under the settings that every connection of the product has."""
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", text)))
    numbered = re.sub(r"%\((\w+)\)s", lambda found: f"${names.index(found[1]) + 1}", text)
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        asked = sql.SQL("explain (generic_plan, format json) " + numbered)  # type: ignore[arg-type]
        (row,) = psycopg.ClientCursor(driver).execute(asked).fetchall()
    plan: dict[str, Any] = row[0][0]["Plan"]
    return plan


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every node that reads a table."""
    if "Scan" in plan["Node Type"] and "Relation Name" in plan:
        yield plan
    for below in plan.get("Plans", ()):
        yield from scans(below)


@pytest.fixture
def quiet(engine: Engine) -> Engine:
    """A database in which everything has ended, and whose statistics say so."""
    driver = Driver(engine)
    driver.submit([{"id": f"s{n}"} for n in range(60)])
    for assignment in driver.claim():
        driver.settle(assignment)
    driver.query("analyze")
    return engine


@pytest.fixture
def rushed(engine: Engine) -> Engine:
    """A database whose statistics are of a moment when all that it had was running."""
    driver = Driver(engine)
    driver.submit([{"id": f"s{n}"} for n in range(60)])
    driver.claim()
    driver.query("analyze")
    return engine


LEASED = ("expired", "admit", "metrics_overdue", "view_limits", "view_oldest", "view_queues")
"""Statements that find leases by the attempts that hold them."""


@pytest.mark.parametrize("text", [*map(load, LEASED), LAPSE], ids=[*LEASED, "lapse"])
@pytest.mark.parametrize("moment", ["engine", "quiet", "rushed"])
def test_leases_are_found_by_attempts_and_steps_by_key(text: str, moment: str, request: pytest.FixtureRequest) -> None:
    """However many of the steps were running when Postgres last counted: soon they are few of very many."""
    for scan in scans(explain(request.getfixturevalue(moment), text)):
        if scan["Relation Name"] == "steps":
            assert re.search(r"\b(id|due_at) (=|<|IS)", scan.get("Index Cond", "")), scan


@pytest.mark.parametrize("name", HOT)
def test_it_reads_tables_by_index_only(engine: Engine, name: str) -> None:
    check(engine, name)


@pytest.mark.parametrize("name", HOT)
def test_steps_are_still_looked_up_by_key_when_none_was_open_lately(quiet: Engine, name: str) -> None:
    check(quiet, name, tables=("steps",))


def check(engine: Engine, name: str, tables: Sequence[str] = ()) -> None:
    for scan in scans(explain(engine, load(name))):
        if scan["Relation Name"] not in (tables or (scan["Relation Name"],)):
            continue
        assert scan["Node Type"] in ("Index Scan", "Index Only Scan"), scan
        assert "Index Cond" in scan, f"all of {scan['Index Name']} is read: {scan.get('Filter')}"


def test_a_statement_that_scans_is_found(engine: Engine) -> None:
    (scan,) = scans(explain(engine, "select * from steps where agent = %(agent)s"))
    assert "Index Cond" not in scan
