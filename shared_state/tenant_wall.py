"""The wall between tenants in the database: what the API does for a caller, it does as a role that row-level security
binds to that caller's tenant. A query that forgets its tenant then finds nothing of others.

The role is made by `orchestrator migrate` where the database lets us; without it everything works, and the wall is the
queries' own predicates alone, which is said wherever somebody may look (`weakness`).
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import LiteralString

import psycopg
from psycopg import sql
from sqlalchemy import Engine

from shared_state.connection import Connection
from shared_state.engine import FIRST_STATEMENT, transaction
from shared_state.statements import query

ROLE = "orchestrator_api"
SETTING = "orchestrator.tenant"
HIDDEN = frozenset({"api_keys", "tenants"})
"""What the role cannot even read: keys are looked up before there is a tenant."""
READ_ONLY = frozenset({"teams", "team_heads", "artifacts", "workers", "model_calls"})
"""What the role never writes: only workers do, or people with access to the database."""
ADD_ONLY = frozenset({"outputs", "attempts"})
"""What the role may copy into a fork, and never change: only workers do."""
_ALL: tuple[LiteralString, ...] = ("select", "insert", "update", "delete")
_TENANTS_REMEMBERED = 1000
_BIND = "select set_config('role', %(role)s, true), set_config(%(setting)s, %(tenant)s, true)"


class TenantEngines:
    """The engine as it may be used for one tenant. Where the wall does not stand that is the engine itself."""

    def __init__(self, engine: Engine, *, walled: bool) -> None:
        self._engine = engine
        self._bound = lru_cache(_TENANTS_REMEMBERED)(self._bind)
        self.walled = walled

    def of(self, tenant: str) -> Engine:
        """Shares the pool; every transaction of it begins by naming the role and the tenant."""
        return self._bound(tenant) if self.walled else self._engine

    def _bind(self, tenant: str) -> Engine:
        """Sent with BEGIN, so that it costs no round trip; local to the transaction, so that it ends with it."""
        first = (_BIND, {"role": ROLE, "setting": SETTING, "tenant": tenant})
        return self._engine.execution_options(**{FIRST_STATEMENT: first})


def weakness(engine: Engine) -> str | None:
    """Why the wall does not stand, with the remedy; None when it does. Raises `Unavailable`."""
    with transaction(engine) as connection:
        return _weakness(connection)


def build(engine: Engine) -> None:
    """Make the role and give it what the API needs, as far as this login may; `weakness` tells what is missing."""
    role = sql.Identifier(ROLE)
    if not _exists(engine):
        _try(engine, sql.SQL("create role {} nologin").format(role))
    if not _exists(engine):
        return
    with transaction(engine) as connection:
        may_become = _may_become(connection)
    if not may_become:
        _try(engine, sql.SQL("grant {} to current_user with inherit false, set true").format(role))
    for statement in _grants(engine):
        _try(engine, statement)


def _exists(engine: Engine) -> bool:
    with transaction(engine) as connection:
        return bool(query(connection, "select oid from pg_roles where rolname = %(role)s", role=ROLE))


def _weakness(connection: Connection) -> str | None:
    roles = query(
        connection, "select rolsuper or rolbypassrls as exempt from pg_roles where rolname = %(role)s", role=ROLE
    )
    (user,) = query(connection, "select current_user::text as name")
    remedy = f'as a superuser: create role {ROLE} nologin; grant {ROLE} to "{user["name"]}" with set true;'
    again = f"{remedy} then run `orchestrator migrate` again"
    if not roles:
        return f"there is no role {ROLE}, and this login may not make one; {again}"
    if roles[0]["exempt"]:
        return f"the role {ROLE} is exempt from row-level security; alter role {ROLE} nosuperuser nobypassrls;"
    if not _may_become(connection):
        return f"this login may not work as {ROLE}; {again}"
    missing = [name for name, wanted in _tables(connection).items() if not _has(connection, name, wanted)]
    if missing:
        return f"{ROLE} lacks rights on {', '.join(missing)}; run `orchestrator migrate` as the owner of the tables"
    open_tables = query(
        connection,
        """select relname from pg_class where relnamespace = current_schema()::regnamespace
        and relname = any (%(names)s) and not relrowsecurity order by 1""",
        names=[name for name in _tables(connection) if name != "workers"],
    )
    if open_tables:
        return f"row-level security is off on {', '.join(row['relname'] for row in open_tables)}"
    return None


def _may_become(connection: Connection) -> bool:
    rows = query(connection, "select pg_has_role(oid, 'SET') as may from pg_roles where rolname = %(role)s", role=ROLE)
    return bool(rows) and bool(rows[0]["may"])


def _tables(connection: Connection) -> dict[str, tuple[LiteralString, ...]]:
    """What the role needs, by table: every table that has tenants' rows, and the workers."""
    rows = query(
        connection,
        """select relname as name from pg_class c where relnamespace = current_schema()::regnamespace and relkind = 'r'
        and (relname = 'workers' or exists (select from pg_attribute a
            where a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped)) order by 1""",
    )
    names = [row["name"] for row in rows if row["name"] not in HIDDEN]
    return {name: _rights_on(name) for name in names}


def _rights_on(table: str) -> tuple[LiteralString, ...]:
    if table in READ_ONLY:
        return ("select",)
    return ("select", "insert") if table in ADD_ONLY else _ALL


def _has(connection: Connection, table: str, wanted: Sequence[str]) -> bool:
    (row,) = query(
        connection,
        """select bool_and(has_table_privilege(%(role)s, format('%%I', %(table)s::text)::regclass, privilege)) as has
        from unnest(%(wanted)s::text[]) as privilege""",
        role=ROLE, table=table, wanted=list(wanted),
    )  # fmt: skip
    return bool(row["has"])


def _grants(engine: Engine) -> list[sql.Composed]:
    """Those that are missing."""
    role = sql.Identifier(ROLE)
    missing = []
    with transaction(engine) as connection:
        (schema,) = query(
            connection,
            """select current_schema()::text as name,
                has_schema_privilege(%(role)s::text, current_schema()::text, 'usage') as has""",
            role=ROLE,
        )
        if not schema["has"]:
            missing.append(sql.SQL("grant usage on schema {} to {}").format(sql.Identifier(schema["name"]), role))
        for table, wanted in _tables(connection).items():
            if not _has(connection, table, wanted):
                rights = sql.SQL(", ").join(map(sql.SQL, wanted))
                missing.append(sql.SQL("grant {} on {} to {}").format(rights, sql.Identifier(table), role))
    return missing


def _try(engine: Engine, statement: sql.Composed) -> None:
    """Run it, unless this login may not or somebody else does the same just now."""
    expected = (
        psycopg.errors.InsufficientPrivilege,
        psycopg.errors.DuplicateObject,
        psycopg.errors.UniqueViolation,
        psycopg.InternalError,  # "tuple concurrently updated"
    )
    with suppress(*expected), transaction(engine) as connection:
        query(connection, statement.as_string())
