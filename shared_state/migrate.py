"""The schema: bring a database to this version's, and say whether it is there."""

from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from contracts.errors import Misconfigured
from shared_state.engine import away_is_unavailable, make_engine

_LOCK = 0x6F726368
"""Advisory lock: two processes that migrate at once run one after the other."""


def upgrade(database_url: str) -> None:
    """Run the missing revisions. Safe to call from several processes at once."""
    engine = make_engine(database_url, pool_size=0)
    config = _config()
    with away_is_unavailable(), engine.begin() as connection:
        connection.exec_driver_sql("set lock_timeout = '60s'")
        connection.exec_driver_sql(f"select pg_advisory_xact_lock({_LOCK})")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def current_revision(engine: Engine) -> str | None:
    with away_is_unavailable(), engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def require_head(engine: Engine) -> None:
    """Raises `Misconfigured` when the schema is not this version's: workers and API refuse to start on it."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    current = current_revision(engine)
    if current != head:
        raise Misconfigured(
            f"the database schema is at {current or 'nothing'}, this version needs {head}: run `orchestrator migrate`"
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("shared_state").joinpath("migrations")))
    return config
