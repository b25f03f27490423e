"""A restored database: what a worker still holds of the lost future is void, and everything open goes on.

A copy of the database stands for the backup here; tests/acceptance/test_backup.py has a real one.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from sqlalchemy import Engine

from contracts.settlements import Accept, Ask, Propose
from orchestrator.embedded import EmbeddedPostgres
from shared_state import questions
from shared_state.engine import make_engine
from shared_state.restore import LEAP, make_current
from shared_state.verify import violations

from ..conftest import CLEAN, create_database
from .driver import Driver

COPY = "restored_copy"


@contextmanager
def restored(postgres: EmbeddedPostgres, session_engine: Engine) -> Iterator[Driver]:
    """A copy of the tests' database as it is now, made as a backup is; its own engine."""
    session_engine.dispose()
    create_database(postgres, COPY, CLEAN)
    engine = make_engine(postgres.url_of(COPY))
    try:
        yield Driver(engine)
    finally:
        engine.dispose()
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(COPY)))


def test_a_worker_of_the_lost_future_cannot_settle(postgres: EmbeddedPostgres, engine: Engine) -> None:
    """Its token comes up again, in a step that somebody else holds by now; only the leap tells them apart."""
    before = Driver(engine)
    before.submit([{"id": "a"}, {"id": "b", "needs": ["a"]}])
    with restored(postgres, engine) as after:
        (lost,) = before.claim("a", worker="cut off")
        make_current(after.engine)
        (held,) = after.claim("a", worker="new")
        assert held.step_id == lost.step_id
        assert not after.settle(lost, Accept(output={"of": "the lost future"}))[0]
        assert after.settle(held, Accept(output={"of": "now"}))[0]
        assert after.finish_all() == ["b"]
        assert violations(after.engine) == []


def test_without_the_leap_it_would(postgres: EmbeddedPostgres, engine: Engine) -> None:
    """Why there is a command: nothing else tells the two apart."""
    before = Driver(engine)
    before.submit([{"id": "a"}])
    with restored(postgres, engine) as after:
        (lost,) = before.claim("a", worker="cut off")
        after.claim("a", worker="new")
        assert after.settle(lost)[0]


def test_what_was_held_at_the_backup_goes_on_without_counting(postgres: EmbeddedPostgres, engine: Engine) -> None:
    before = Driver(engine)
    before.submit([{"id": "a"}, {"id": "r", "agent": "careful"}])
    for assignment in before.claim("r"):
        before.settle(assignment, Propose(output={"from": "r"}))
    before.claim(worker="w1", lease_seconds=3600)
    with restored(postgres, engine) as after:
        done = make_current(after.engine)
        assert (done.leases, done.steps) == (2, 2)
        rows = after.query("select key, state, epoch, attempt_count, lease_until from steps order by key")
        assert [(row["key"], row["state"], row["attempt_count"]) for row in rows] == [
            ("a", "ready", 0),
            ("r", "reviewing", 0),
        ]
        assert all(row["epoch"] > LEAP and row["lease_until"] is None for row in rows)
        assert violations(after.engine) == []
        make_current(after.engine)
        assert violations(after.engine) == [], "again does no harm"
        assert {each.key for each in after.claim()} == {"a", "r"}


def test_a_question_of_before_can_be_answered(postgres: EmbeddedPostgres, engine: Engine) -> None:
    before = Driver(engine)
    before.submit([{"id": "a"}])
    (assignment,) = before.claim()
    before.settle(assignment, Ask(text="May I?"))
    with restored(postgres, engine) as after:
        make_current(after.engine)
        (question,) = after.query("select id from questions where state = 'open'")
        questions.answer(after.engine, "default", question["id"], "yes", "me")
        assert after.finish_all() == ["a"]
        assert violations(after.engine) == []
