"""Real servers for the tests: one Postgres and one Redis per session, a migrated template, empty tables per test."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis as redis_client
import structlog
from psycopg import sql
from sqlalchemy import Engine

from orchestrator.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.brokers import RabbitBroker, RedisBroker, TestBroker
from tests.legal_moves import install as install_legal_moves
from tests.rabbitmq import NOT_INSTALLED, RabbitServer, rabbitmq_home

TEMPLATE = "template_migrated"
CLEAN = "clean"
CHOICE = "ORCHESTRATOR_TEST_BROKER"


@pytest.fixture(scope="session", autouse=True)
def _quiet_logs() -> None:
    """An API or a loop in this process logs nowhere, least of all between what a command prints."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())


@pytest.fixture(scope="session")
def servers_dir() -> Iterator[Path]:
    """A folder outside the checkout for the servers' files, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="orchestrator-tests-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(servers_dir: Path) -> Iterator[EmbeddedPostgres]:
    """The session's server; PostgreSQL 18 unless ORCHESTRATOR_TEST_POSTGRES names another major version."""
    version = int(os.environ.get("ORCHESTRATOR_TEST_POSTGRES", "18"))
    with EmbeddedPostgres(servers_dir / "postgres", version) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(servers_dir: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(servers_dir / "redis") as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq(servers_dir: Path) -> Iterator[RabbitServer]:
    if rabbitmq_home() is None:
        pytest.skip(NOT_INSTALLED)
    with RabbitServer(servers_dir / "rabbitmq") as server:
        yield server


@pytest.fixture(scope="session")
def broker_of_choice(request: pytest.FixtureRequest) -> TestBroker:
    """Redis, or RabbitMQ with ORCHESTRATOR_TEST_BROKER=amqp."""
    if os.environ.get(CHOICE, "redis") == "amqp":
        return RabbitBroker(request.getfixturevalue("rabbitmq"))
    return RedisBroker(request.getfixturevalue("redis_server"))


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """The session's Redis, emptied."""
    with redis_client.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture(scope="session")
def template_database(postgres: EmbeddedPostgres) -> str:
    """The name of a database that is migrated to head once: clone it with `clone_database`, never write to it."""
    from shared_state.migrate import upgrade

    create_database(postgres, TEMPLATE)
    upgrade(postgres.url_of(TEMPLATE))
    install_legal_moves(postgres.url_of(TEMPLATE))
    return TEMPLATE


@pytest.fixture(scope="session")
def database_url(postgres: EmbeddedPostgres, template_database: str) -> str:
    """The session's migrated database, the one `engine` empties before each test."""
    create_database(postgres, CLEAN, template_database)
    return postgres.url_of(CLEAN)


@pytest.fixture(scope="session")
def session_engine(database_url: str) -> Iterator[Engine]:
    from shared_state.engine import make_engine

    engine = make_engine(database_url, pool_size=10)
    yield engine
    engine.dispose()


@pytest.fixture
def engine(session_engine: Engine, database_url: str) -> Iterator[Engine]:
    """Empty tables; after the test no safety invariant may be violated."""
    from shared_state.verify import violations

    empty_tables(database_url)
    yield session_engine
    assert [found for found in violations(session_engine) if found.kind == "safety"] == []


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of public test data, from ORCHESTRATOR_TEST_DATA; tests that need it are skipped without it."""
    named = os.environ.get("ORCHESTRATOR_TEST_DATA")
    if not named:
        pytest.skip("ORCHESTRATOR_TEST_DATA is not set: it names the folder of test data")
    folder = Path(named)
    if not folder.is_dir():
        pytest.fail(f"ORCHESTRATOR_TEST_DATA={named}: there is no such folder")
    return folder


def create_database(server: EmbeddedPostgres, name: str, template: str = "template0") -> None:
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))


def empty_tables(url: str) -> None:
    """Back to what the migrations leave: TRUNCATE of everything but their version, and their one row."""
    query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
    with psycopg.connect(url, autocommit=True) as connection:
        names = [sql.Identifier(row[0]) for row in connection.execute(query)]
        if names:
            truncate = sql.SQL("TRUNCATE {} RESTART IDENTITY CASCADE")
            connection.execute(truncate.format(sql.SQL(", ").join(names)))
            connection.execute("INSERT INTO tenants (id) VALUES ('default')")  # as the first migration does
