"""SQL by name: one transition or one read, one `.sql` file, readable on one screen and explainable as it stands.

Parameters are psycopg's named ones (`%(ids)s`), so a file runs as it is in the driver; SQLAlchemy only
lends the connection.
"""

from functools import cache
from importlib.resources import files
from typing import Any

import psycopg
from psycopg.rows import dict_row
from sqlalchemy import Connection

Cursor = psycopg.Cursor[dict[str, Any]]


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
    return rows_of(_execute(connection, sql, parameters))


def send(connection: Connection, name: str, **parameters: Any) -> Cursor:
    """Run one named statement without waiting, where the transaction is pipelined: `rows_of` reads what it answered,
    even after the commit. Its error, if any, is raised by whatever is waited for next."""
    return _execute(connection, load(name), parameters)


def rows_of(cursor: Cursor) -> list[dict[str, Any]]:
    try:
        return cursor.fetchall()
    except psycopg.ProgrammingError as error:
        if error.sqlstate is not None:
            raise
        return []  # the driver's own complaint: the statement returns no rows


def _execute(connection: Connection, sql: str, parameters: dict[str, Any]) -> Cursor:
    driver: psycopg.Connection[Any] | None = connection.connection.driver_connection
    if driver is None:
        raise RuntimeError("the connection was closed")
    return driver.cursor(row_factory=dict_row).execute(sql, parameters, prepare=True)
