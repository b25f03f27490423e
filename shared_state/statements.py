"""SQL by name: one transition or one read, one `.sql` file, readable on one screen and explainable as it stands.

Parameters are psycopg's named ones (`%(ids)s`), so a file runs as it is through SQLAlchemy's driver connection.
"""

from functools import cache
from importlib.resources import files
from typing import Any

from sqlalchemy import Connection


@cache
def load(name: str) -> str:
    """The text of `shared_state/sql/<name>.sql`."""
    return files("shared_state").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")


def load_migration(name: str) -> str:
    return files("shared_state").joinpath("migrations", f"{name}.sql").read_text(encoding="utf-8")


def run(connection: Connection, name: str, **parameters: Any) -> list[dict[str, Any]]:
    """Run one named statement; its rows, or none where it returns none."""
    return query(connection, load(name), **parameters)


def query(connection: Connection, sql: str, **parameters: Any) -> list[dict[str, Any]]:
    """Run SQL written where it is used: for reads too small or too variable to deserve a file."""
    result = connection.exec_driver_sql(sql, parameters)
    return [dict(row) for row in result.mappings()] if result.returns_rows else []
