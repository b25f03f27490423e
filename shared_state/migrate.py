"""The schema: bring a database to this release's, and say whether a database's serves this release.

A release is known by the schema it was made for: the newest revision it brings along. Expand, then contract: a revision
that only adds leaves the releases before it at work; one that takes away says from which schema's release on it serves
(`alembic_version.serves_from`), and comes a release later than the last that needed what is gone.
"""

import random
import time
from functools import cache
from importlib.metadata import version
from importlib.resources import files

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from contracts.errors import Misconfigured, Unavailable
from shared_state import tenant_wall
from shared_state.engine import away_is_unavailable, is_conflict, make_engine, transaction
from shared_state.statements import query

_LOCK = 0x6F726368
"""Advisory lock: two processes that migrate at once run one after the other."""
_LOCK_SECONDS = 2.0
"""How long a revision waits for a table at most: meanwhile everybody else waits behind it."""
_PATIENCE_SECONDS = 120.0


def upgrade(database_url: str, *, patience_seconds: float = _PATIENCE_SECONDS) -> None:
    """Run the missing revisions, all or none, and build the wall between tenants as far as this login may.

    Safe to call from several processes at once, and under full load.
    Does nothing to a schema that is newer and serves this release; raises `Misconfigured` for one that does not, and
    `Unavailable` where somebody has kept a table locked for `patience_seconds`.
    """
    engine = make_engine(database_url, pool_size=0)
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return _upgrade(engine)
        except (Unavailable, DBAPIError) as error:
            # Processes at work lock tables in another order than a migration does: one of the two has to give way.
            busy = _is_lock_timeout(error) if isinstance(error, Unavailable) else is_conflict(error)
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.2, 1.0))  # whoever waited behind us goes first


def current_revision(engine: Engine) -> str | None:
    return _standing(engine)[0]


def refusal(engine: Engine) -> str | None:
    """Why this release must not work on this database's schema; None when it may. One cheap query."""
    found, serves_from = _standing(engine)
    release = f"this release ({version('agent-orchestrator')}, made for schema {head()})"
    if found is None:
        return "the database has no schema yet: run `orchestrator migrate`"
    if found < head():
        return f"the database's schema is {found}, and {release} needs a newer one: run `orchestrator migrate`"
    if found > head() and (serves_from is None or serves_from > head()):
        oldest = f"releases made for schema {serves_from or found} or later"
        return f"the database's schema is {found} and serves {oldest}; {release} is too old: upgrade it"
    return None


def require_served(engine: Engine) -> None:
    """Raises `Misconfigured` when the schema does not serve this release: no part of it may work there."""
    reason = refusal(engine)
    if reason is not None:
        raise Misconfigured(reason)


def _upgrade(engine: Engine) -> None:
    config = _config()
    with away_is_unavailable(), engine.begin() as connection:
        connection.exec_driver_sql(f"set local lock_timeout = '{_LOCK_SECONDS}s'")
        connection.exec_driver_sql(f"select pg_advisory_xact_lock({_LOCK})")
        found, _ = _standing(engine)
        if found is not None and found > head():
            require_served(engine)
            return
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    tenant_wall.build(engine)


def _is_lock_timeout(error: Unavailable) -> bool:
    cause = getattr(error.__cause__, "orig", error.__cause__)
    return isinstance(cause, psycopg.errors.LockNotAvailable)


def _standing(engine: Engine) -> tuple[str | None, str | None]:
    """The revision of a database's schema and the schema of the oldest release it serves; each None where unknown."""
    # A schema of before it said whom it serves does not have the column.
    sql = "select version_num as found, to_jsonb(v) ->> 'serves_from' as serves_from from alembic_version v"
    try:
        with transaction(engine) as connection:
            rows = query(connection, sql)
    except psycopg.errors.UndefinedTable:
        return None, None
    return (rows[0]["found"], rows[0]["serves_from"]) if rows else (None, None)


@cache
def head() -> str:
    """The schema this release was made for."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    if newest is None:
        raise Misconfigured("this installation has lost its migrations: install it again")
    return newest


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("shared_state").joinpath("migrations")))
    return config
