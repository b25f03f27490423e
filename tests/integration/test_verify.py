"""Every invariant is proved by a violation that it detects, and by a healthy database in which it finds nothing.

So is the look at some tasks only that the loops take: what `verify` finds in a task it finds as well.
"""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from contracts.errors import Failure
from contracts.settlements import Ask, Bury, Propose
from shared_state import dead_letters, tasks
from shared_state.artifacts import ArtifactStore
from shared_state.broker.quarantine import describe
from shared_state.engine import make_engine, transaction
from shared_state.inspection import Inspector
from shared_state.model_calls import Call, Journal, Past
from shared_state.statements import query
from shared_state.verify import invariants, violations
from tests.integration.driver import Driver

CALL = Call(
    ordinal=1,
    conversation="x",
    model="openai-chat:x",
    settings={},
    past=Past(ending="timeout", answered=False, told=False, tool_calls=0, input_tokens=0, output_tokens=0),
    kept=False,
    seconds=1.0,
    request=b"{}",
    response=None,
)
LONG_AGO = "clock_timestamp() - interval '1 hour'"
STEP = "(select id from steps where key = '{}')"

SEEDS = {
    "I01": "delete from outputs where step_id = (select id from steps where key = 'done')",
    "I02": "update attempts set state = 'failed' where step_id = (select step_id from outputs limit 1)",
    "I03": "update steps set epoch = epoch + 1 where key = 'held'",
    "I04": "update steps set epoch = 0 where key = 'done'",
    "I07": "update dependencies set input_epoch = null where step_id = (select id from steps where key = 'after')",
    "I08": "update steps set needs_left = 2 where key = 'blocked'",
    "I09": "update steps set needs_left = 0 where key = 'blocked'",
    "I10": "delete from outbox where step_id = (select id from steps where key = 'ready')",
    "I11": "update outbox set epoch = epoch + 1 where step_id = (select id from steps where key = 'ready')",
    "I16": f"update tasks set cancel_requested_at = {LONG_AGO}",
    "I17": f"update tasks set cancel_requested_at = {LONG_AGO}",
    "I18": "update dead_letters set state = 'discarded', closed_at = clock_timestamp()",
    "I21": "update tasks set step_count = step_count + 1",
    "I22": "update tasks set state = 'failed', finished_at = clock_timestamp()",
    "I23": "update steps set state = 'cancelled', lease_until = null, finished_at = clock_timestamp()",
    "I24": "update steps set tenant_id = 'other' where key = 'ready'",
    "I25": "update steps set rank = 0",
    "I26": "delete from proposals where state = 'pending'",
    "I32": "delete from attempts where step_id = (select id from steps where key = 'held')",
    "I33": "update questions set state = 'cancelled'",
    "I34": "update steps set state = 'skipped', finished_at = clock_timestamp() where key = 'blocked'",
    "I38": "insert into shared_steps select id, tenant_id, task_id, task_id, id from steps where key = 'done'",
    "I36": "update dead_letters set state = 'redriven', closed_at = clock_timestamp() where step_id is not null",
    "I37": """insert into dead_letter_edits (id, tenant_id, dead_letter_id, editor)
        select gen_random_uuid(), tenant_id, id, 'me' from dead_letters where step_id is null""",
    "I41": "delete from artifacts",
    "I39": f"""with r as (insert into rules (tenant_id, team_name, agent, concurrency, set_at)
        values ('default', 'plain', 'work', 1, {LONG_AGO}) returning id)
        update outbox set limit_id = (select id from r)""",
    "I40": f"""insert into parked select step_id, epoch, tenant_id, task_id, queue, kind, null, created_at,
        gen_random_uuid(), {LONG_AGO} from outbox""",
    "I27": f"update steps set lease_until = {LONG_AGO} where key = 'held'",
    "I28": f"update outbox set published_at = null, created_at = {LONG_AGO}",
    "I29": f"update steps set due_at = {LONG_AGO} where key = 'ready'",
    "I35": f"update tasks set deadline_at = {LONG_AGO}",
}


@pytest.fixture
def busy(engine: Engine) -> Driver:
    """A task with a step in every state that a live task can have."""
    driver = Driver(engine)
    driver.submit(
        [
            {"id": "done"},
            {"id": "after", "needs": ["done"]},
            {"id": "held"},
            {"id": "blocked", "needs": ["held"]},
            {"id": "ready"},
            {"id": "asked"},
            {"id": "dead"},
            {"id": "skipped", "needs": ["dead"]},
            {"id": "judged", "agent": "careful"},
        ]
    )
    driver.settle(driver.claim("done")[0])
    driver.settle(driver.claim("after")[0])
    driver.settle(driver.claim("asked")[0], Ask(text="?"))
    driver.settle(driver.claim("dead")[0], Bury(failure=Failure(code="agent.error", text="x")))
    driver.settle(driver.claim("judged")[0], Propose(output=1))
    (held,) = driver.claim("held")
    Journal(engine, ArtifactStore(engine, "default", None), held).write(CALL)
    dead_letters.record_raw(engine, [describe("execute", "message.envelope", "no message", b"?")])
    (letter,) = driver.query("select id from dead_letters where step_id is not null")
    dead_letters.note(engine, "default", letter["id"], "looked at it", "me")
    dead_letters.edit(engine, "default", letter["id"], {"n": 2}, "me")
    return driver


@pytest.fixture
def inspector(database_url: str) -> Iterator[Inspector]:
    alone = make_engine(database_url, pool_size=1)
    yield Inspector(alone)
    alone.dispose()


def inspected(inspector: Inspector) -> set[str]:
    """The names of what is violated, by a look that reached everything."""
    inspection = inspector.inspect()
    assert inspection is not None
    assert inspection.unchecked == []
    return {each.invariant for each in inspection.violations}


def test_every_invariant_has_a_seed() -> None:
    assert {each.name for each in invariants()} == set(SEEDS)


@pytest.mark.parametrize("name", sorted(SEEDS))
def test_a_violation_is_detected(busy: Driver, inspector: Inspector, name: str) -> None:
    assert violations(busy.engine) == []
    assert inspected(inspector) == set()
    seed(busy, SEEDS[name])
    assert name in {each.invariant for each in violations(busy.engine)}
    assert name in inspected(inspector)
    empty(busy)


def test_a_row_of_another_tenant_is_detected_in_every_table(busy: Driver, inspector: Inspector) -> None:
    """The tables are the schema's, so that a new one cannot be forgotten."""
    tables = busy.query(
        """select c.table_name as name from information_schema.columns c
        where c.table_schema = 'public' and c.column_name = 'tenant_id' and exists (
            select 1 from information_schema.columns o where o.table_schema = 'public'
                and o.table_name = c.table_name and o.column_name in ('task_id', 'step_id', 'dead_letter_id'))
        order by c.table_name"""
    )
    assert len(tables) >= 12
    with transaction(busy.engine) as connection:
        query(connection, "insert into idempotency_keys select 'default', 'k', 'd', id from tasks")
        # As if the task were a fork, and its step `done` had run before it was made.
        query(connection, "insert into forks select id, 'default', id, id, 'a', 'me', false from tasks")
        query(
            connection,
            """insert into shared_steps select id, 'default', task_id, task_id, id from steps where key = 'done'""",
        )
        query(connection, "insert into rules (tenant_id, task_id, concurrency) select 'default', id, 0 from tasks")
        query(
            connection,
            """insert into parked select step_id, epoch, tenant_id, task_id, queue, kind, null, created_at,
            (select id from rules) from outbox""",
        )
        query(
            connection,
            f"""update attempts set started_at = {LONG_AGO}
            where step_id = (select id from steps where key = 'done')""",
        )
    for table in (row["name"] for row in tables):
        seed(busy, f"update {table} set tenant_id = 'other'")
        found = [each.invariant for each in violations(busy.engine)]
        assert "I24" in found, table
        assert "I24" in inspected(inspector), table
        seed(busy, f"update {table} set tenant_id = 'default'")
        assert violations(busy.engine) == [], table


def seed(busy: Driver, sql: str) -> None:
    """Constraints and triggers would refuse most of it: the invariants must hold without relying on them."""
    with transaction(busy.engine) as connection:
        query(connection, "set local session_replication_role = replica")
        query(connection, sql)


def empty(busy: Driver) -> None:
    with transaction(busy.engine) as connection:
        query(connection, "truncate tasks, steps, attempts, outbox, dead_letters cascade")


def test_every_state_at_once_is_healthy_and_can_end(busy: Driver) -> None:
    (task,) = busy.query("select id from tasks")
    tasks.cancel(busy.engine, "default", task["id"], "me")
    assert violations(busy.engine) == []
    (letter,) = busy.query("select id from dead_letters where step_id is not null")
    dead_letters.discard(busy.engine, "default", letter["id"], "cancelled anyway", "me")
    assert violations(busy.engine) == []
