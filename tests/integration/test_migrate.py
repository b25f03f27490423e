"""Which schemas serve which releases, and migrating while others are at work."""

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy import Engine

from contracts.errors import Misconfigured, Unavailable
from orchestrator.embedded import EmbeddedPostgres
from shared_state import migrate
from shared_state.engine import make_engine, transaction
from shared_state.statements import query

from ..conftest import create_database
from .api_server import running_api, until

BEFORE = """drop table shared_steps, forks, model_calls, rules, parked; alter table outbox drop column limit_id;
    alter table workers drop column drain_requested_at, drop column drain_requested_by;
    alter table alembic_version drop column serves_from;
    update alembic_version set version_num = '0002'"""
"""Back to the schema that did not yet say whom it serves."""


@pytest.fixture
def database(postgres: EmbeddedPostgres, template_database: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a migrated database of this test's own."""
    name = f"migrated_{abs(hash(request.node.name))}"
    create_database(postgres, name, template_database)
    yield postgres.url_of(name)
    change(postgres.url, f"drop database {name} with (force)")


@pytest.fixture
def own(database: str) -> Iterator[Engine]:
    engine = make_engine(database)
    yield engine
    engine.dispose()


def change(url: str, sql: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.encode())


def stamp(url: str, revision: str, serves_from: str) -> None:
    change(url, f"update alembic_version set version_num = '{revision}', serves_from = '{serves_from}'")


def test_the_schema_made_for_this_release_serves_it_and_the_first(own: Engine) -> None:
    assert migrate.refusal(own) is None
    with transaction(own) as connection:
        (row,) = query(connection, "select version_num, serves_from from alembic_version")
    assert row == {"version_num": migrate.head(), "serves_from": "0001"}


@pytest.mark.parametrize(
    ("revision", "serves_from", "said"),
    [
        ("0003", "0001", "needs a newer one: run `orchestrator migrate`"),
        ("9999", "9000", "serves releases made for schema 9000 or later"),
    ],
)
def test_others_are_refused_with_the_remedy(
    own: Engine, database: str, revision: str, serves_from: str, said: str
) -> None:
    stamp(database, revision, serves_from)
    with pytest.raises(Misconfigured) as refused:
        migrate.require_served(own)
    for text in (f"the database's schema is {revision}", said, f"made for schema {migrate.head()}"):
        assert text in refused.value.text


def test_a_newer_schema_that_only_added_serves_this_release(own: Engine, database: str) -> None:
    for serves_from in ("0001", migrate.head()):
        stamp(database, "9999", serves_from)
        migrate.require_served(own)
        migrate.upgrade(database)
        assert migrate.current_revision(own) == "9999"
    stamp(database, "9999", "9998")
    with pytest.raises(Misconfigured):
        migrate.upgrade(database)


def test_a_schema_that_does_not_say_whom_it_serves(own: Engine, database: str) -> None:
    change(database, BEFORE)
    assert "is 0002" in str(migrate.refusal(own))
    migrate.upgrade(database)
    assert migrate.refusal(own) is None


def test_a_database_without_a_schema(postgres: EmbeddedPostgres) -> None:
    create_database(postgres, "without_schema")
    engine = make_engine(postgres.url_of("without_schema"), pool_size=0)
    assert "no schema yet" in str(migrate.refusal(engine))
    assert migrate.current_revision(engine) is None


def test_a_locked_table_holds_nobody_up_but_the_migration(own: Engine, database: str) -> None:
    """Somebody reads for long, as a backup does: the migration waits in short turns, and others get theirs."""
    change(database, BEFORE)
    done = threading.Event()

    def upgrade() -> None:
        migrate.upgrade(database)
        done.set()

    with psycopg.connect(database) as reader:
        reader.execute("select * from alembic_version")
        with pytest.raises(Unavailable):
            migrate.upgrade(database, patience_seconds=0)
        assert migrate.current_revision(own) == "0002"
        waiting = threading.Thread(target=upgrade)
        waiting.start()
        until(lambda: len(_blocked(database)) > 0)
        assert migrate.current_revision(own) == "0002"  # waits behind the migration, whose turn ends
        assert not done.is_set()
    waiting.join(30)
    assert done.is_set()
    assert migrate.current_revision(own) == migrate.head()


def test_a_column_added_under_a_prepared_statement_is_an_answer_to_repeat(own: Engine, database: str) -> None:
    def look() -> Any:
        with transaction(own) as connection:
            return query(connection, "select * from tenants")

    look()
    change(database, "alter table tenants add column later int")
    with pytest.raises(Unavailable) as told:
        look()
    assert "schema was changed" in told.value.text
    assert look()[0]["later"] is None


def test_the_api_says_that_the_schema_has_left_it_behind(own: Engine, database: str, redis_url: str) -> None:
    with running_api(own, database, redis_url) as url:
        assert httpx.get(f"{url}/ready").status_code == 200
        stamp(database, "9999", "9999")
        answer = httpx.get(f"{url}/ready")
    assert answer.status_code == 503
    assert "too old: upgrade it" in answer.json()["detail"]


def _blocked(url: str) -> list[Any]:
    with psycopg.connect(url) as connection:
        sql = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        return connection.execute(sql).fetchall()
