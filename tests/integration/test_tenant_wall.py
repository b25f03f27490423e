"""Row-level security: what the API's role does with queries that forget their tenant, and what happens without it."""

import threading
from collections.abc import Iterator

import httpx
import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy import Engine

from contracts.errors import Misconfigured
from orchestrator.api.application import make_api
from orchestrator.api.serve import is_walled, open_publisher
from orchestrator.api.services import Ours
from orchestrator.embedded import EmbeddedPostgres
from shared_state import tenant_wall
from shared_state.engine import make_engine, transaction
from shared_state.migrate import upgrade
from shared_state.settings import Settings
from shared_state.statements import query
from shared_state.tenant_wall import ROLE, TenantEngines
from tests.conftest import create_database
from tests.integration.api_server import LiveApi, apply_team, finish, serving, until

PLAN = {"steps": [{"id": "a", "agent": "write"}, {"id": "b", "agent": "write", "needs": ["a"]}]}


@pytest.fixture
def tasks(api: LiveApi) -> dict[str, str]:
    """A task of each tenant, by tenant."""
    made = {}
    for tenant, role in (("default", "admin"), ("elsewhere", "foreign")):
        with api.http(role) as client:
            made[tenant] = client.post("/tasks", json={"team": "letters", "plan": PLAN}).json()["id"]
    return made


def walled_tables(engine: Engine) -> list[str]:
    """Every table with tenants' rows."""
    with transaction(engine) as connection:
        rows = query(
            connection,
            """select table_name from information_schema.columns where table_schema = 'public'
            and column_name = 'tenant_id' order by 1""",
        )
    return [row["table_name"] for row in rows]


def forgetful(engine: Engine, text: str) -> list[str]:
    """The tenants of the rows that a query without any tenant reads or changes, as tenant `elsewhere`."""
    with transaction(TenantEngines(engine, walled=True).of("elsewhere")) as connection:
        return sorted({row["tenant_id"] for row in query(connection, text)})


def test_a_query_that_forgets_its_tenant_reads_and_changes_only_the_callers_rows(
    engine: Engine, tasks: dict[str, str]
) -> None:
    assert forgetful(engine, "select tenant_id from tasks") == ["elsewhere"]
    assert forgetful(engine, "select tenant_id from steps for update") == ["elsewhere"]
    assert forgetful(engine, "update steps set input = '{}' returning tenant_id") == ["elsewhere"]
    assert forgetful(engine, "update tasks set goal = 'mine' returning tenant_id") == ["elsewhere"]
    assert forgetful(engine, "delete from events returning tenant_id") == ["elsewhere"]
    with transaction(engine) as connection:
        rows = query(connection, "select tenant_id, goal from tasks order by 1")
        assert [(row["tenant_id"], row["goal"]) for row in rows] == [("default", ""), ("elsewhere", "mine")]
        assert len(query(connection, "select from events where tenant_id = 'default'")) == 1


def test_no_row_can_be_made_for_or_given_to_another_tenant(engine: Engine, tasks: dict[str, str]) -> None:
    for text in (
        "insert into events (tenant_id, task_id, type) select 'default', id, 'x' from tasks returning tenant_id",
        "update tasks set tenant_id = 'default' returning tenant_id",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            forgetful(engine, text)


@pytest.mark.parametrize("text", ["select * from api_keys", "update outputs set body = '1'", "truncate tasks"])
def test_what_the_api_has_no_business_with_is_denied(engine: Engine, tasks: dict[str, str], text: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        forgetful(engine, text)


def test_the_wall_lets_a_fork_take_over_what_was_accepted(api: LiveApi, tasks: dict[str, str]) -> None:
    finish(api.engine, tasks["default"], "a", {"n": 1})
    with api.http() as client:
        answer = client.post(f"/tasks/{tasks['default']}/fork", json={"from": "b"})
        assert answer.status_code == 201, answer.text
        assert client.get(f"/tasks/{answer.json()['id']}").json()["step_counts"]["succeeded"] == 1


def test_every_table_of_tenants_is_behind_the_wall(engine: Engine, tasks: dict[str, str]) -> None:
    """A migration that makes such a table must put it there: `enable row level security` and the policy."""
    with transaction(engine) as connection:
        rows = query(connection, "select tablename from pg_policies where policyname = 'tenant_wall'")
    assert {row["tablename"] for row in rows} == {*walled_tables(engine), "tenants"}
    for table in walled_tables(engine):
        if table not in tenant_wall.HIDDEN:
            assert set(forgetful(engine, f"select tenant_id from {table}")) <= {"elsewhere"}, table


def test_without_a_tenant_the_role_sees_nothing(engine: Engine, tasks: dict[str, str]) -> None:
    with transaction(engine) as connection:
        query(connection, "select set_config('role', %(role)s, true)", role=ROLE)
        assert query(connection, "select tenant_id from tasks") == []


def test_role_and_tenant_end_with_the_transaction(engine: Engine, tasks: dict[str, str]) -> None:
    """Also on the very connection, which the pool hands to whoever comes next."""
    one = make_engine(engine.url.render_as_string(hide_password=False), pool_size=1)
    tenants = TenantEngines(one, walled=True)
    for tenant in ("elsewhere", "default"):
        with transaction(tenants.of(tenant)) as connection:
            rows = query(connection, "select tenant_id from tasks")
            assert [row["tenant_id"] for row in rows] == [tenant]
        with transaction(one) as connection:
            (row,) = query(connection, "select current_user <> %(role)s as free, count(*) as n from tasks", role=ROLE)
            assert (row["free"], row["n"]) == (True, 2)
    with pytest.raises(psycopg.errors.InsufficientPrivilege), transaction(tenants.of("default")) as connection:
        query(connection, "select from api_keys")
    with transaction(one) as connection:
        assert len(query(connection, "select from tasks")) == 2
    one.dispose()


@pytest.fixture
def own_url(postgres: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    """A migrated database of the test's own, whose wall it may damage."""
    create_database(postgres, "wall", template_database)
    yield postgres.url_of("wall")
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("drop database wall with (force)")


def test_the_wall_is_the_policys_doing(own_url: str) -> None:
    """The proofs above would notice: without the policy, or without row-level security, the others' rows are there."""
    engine = make_engine(own_url, pool_size=0)
    with transaction(engine) as connection:
        query(connection, "insert into tenants (id) values ('elsewhere')")
    for tenant in ("default", "elsewhere"):
        apply_team(engine, tenant=tenant)
    assert forgetful(engine, "select tenant_id from teams") == ["elsewhere"]
    with psycopg.connect(own_url) as connection:
        connection.execute("alter table teams disable row level security")
    assert forgetful(engine, "select tenant_id from teams") == ["default", "elsewhere"]
    assert "row-level security is off on teams" in (tenant_wall.weakness(engine) or "")
    with psycopg.connect(own_url) as connection:
        connection.execute("alter table teams enable row level security")
        connection.execute("drop policy tenant_wall on teams")
        connection.execute("create policy tenant_wall on teams using (true)")
    assert forgetful(engine, "select tenant_id from teams") == ["default", "elsewhere"]


def test_missing_rights_are_named_and_mended_by_migrating_again(own_url: str) -> None:
    engine = make_engine(own_url, pool_size=0)
    with psycopg.connect(own_url) as connection:
        connection.execute(sql.SQL("revoke update on tasks from {}").format(sql.Identifier(ROLE)))
    assert "lacks rights on tasks" in (tenant_wall.weakness(engine) or "")
    upgrade(own_url)
    assert tenant_wall.weakness(engine) is None


@pytest.fixture
def managed_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """An empty database of an owner who may make no roles and is not one of ours, as a provider hands them out."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("create role managed login password 'managed' nosuperuser nocreaterole")
        connection.execute("create database managed owner managed")
    yield (
        postgres.url_of("managed")
        .replace("//orchestrator:", "//managed:")
        .replace(postgres.url.split(":")[2].split("@")[0], "managed")
    )
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("drop database managed with (force)")
        connection.execute("drop role managed")


def settings_for(url: str, row_level_security: str) -> Settings:
    return Settings.model_validate(
        {
            "database_url": url,
            "row_level_security": row_level_security,
            "signing_keys": {"test": SecretStr("a secret for tests only")},
        }
    )


def test_an_owner_who_may_not_have_the_role_works_without_the_wall_and_is_told(
    postgres: EmbeddedPostgres, managed_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    upgrade(managed_url)
    engine = make_engine(managed_url, pool_size=0)
    reason = tenant_wall.weakness(engine)
    assert reason is not None
    assert "may not" in reason
    assert f'grant {ROLE} to "managed" with set true' in reason
    assert not is_walled(settings_for(managed_url, "auto"), engine)
    assert "row-level security is not in force" in caplog.text
    with pytest.raises(Misconfigured) as refused:
        is_walled(settings_for(managed_url, "require"), engine)
    assert "row_level_security" in refused.value.text
    apply_team(engine)  # the owner is not bound by policies
    # A superuser does what the text says, and the next migration finishes it.
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"grant {ROLE} to managed with set true")
    upgrade(managed_url)
    assert tenant_wall.weakness(engine) is None
    assert is_walled(settings_for(managed_url, "require"), engine)
    with transaction(engine) as connection:
        query(connection, "insert into tenants (id) values ('elsewhere')")
    apply_team(engine, tenant="elsewhere")
    assert forgetful(engine, "select tenant_id from teams") == ["elsewhere"]


def test_turned_off_it_is_not_even_looked_for(engine: Engine) -> None:
    assert not is_walled(
        settings_for("postgresql://127.0.0.1:1/nowhere", "off"), make_engine("postgresql://127.0.0.1:1/x")
    )


@pytest.mark.parametrize("walled", [True, False])
def test_a_route_that_forgets_the_tenant_shows_nobody_elses(
    engine: Engine, database_url: str, redis_url: str, api: LiveApi, tasks: dict[str, str], walled: bool
) -> None:
    """And without the wall it would show them: the wall is what holds here."""
    settings = settings_for(database_url, "auto").model_copy(update={"broker_url": redis_url})
    made = make_api(settings, engine, open_publisher(settings), walled=walled)

    def forget(services: Ours) -> list[str]:
        with transaction(services.engine) as connection:
            return [row["tenant_id"] for row in query(connection, "select tenant_id from tasks order by 1")]

    made.add_api_route("/v1/forgetful", forget)
    headers = {"Authorization": f"Bearer {api.key_of['foreign']}"}
    with serving(made) as url, httpx.Client(base_url=url, headers=headers) as client:
        assert client.get("/v1/forgetful").json() == (["elsewhere"] if walled else ["default", "elsewhere"])


def test_a_migration_that_deadlocks_with_somebody_at_work_is_tried_again(own_url: str) -> None:
    """Somebody holds `steps` and wants `attempts`, which the migration takes first."""
    with psycopg.connect(own_url) as connection:
        tables = connection.execute("select tablename from pg_policies where policyname = 'tenant_wall'").fetchall()
        for (table,) in tables:
            connection.execute(sql.SQL("drop policy tenant_wall on {}").format(sql.Identifier(table)))
        connection.execute("drop index tasks_open")
        connection.execute("drop table model_calls, rules, parked; alter table outbox drop column limit_id")
        connection.execute("alter table workers drop column drain_requested_at, drop column drain_requested_by")
        connection.execute("update alembic_version set version_num = '0004'")
    with psycopg.connect(own_url) as worker, psycopg.connect(own_url, autocommit=True) as looker:
        worker.execute("set deadlock_timeout = '20s'")
        worker.execute("lock table steps in row exclusive mode")
        migration = threading.Thread(target=upgrade, args=(own_url,))
        migration.start()
        waiting = "select from pg_locks where not granted and relation = 'steps'::regclass"
        until(lambda: looker.execute(waiting).rowcount == 1)
        worker.execute("lock table attempts in row exclusive mode")  # the migration has to give way
        worker.commit()
        migration.join(60)
    assert tenant_wall.weakness(make_engine(own_url, pool_size=0)) is None
