"""SQL by name: one transition or one read, one `.sql` file, readable on one screen and explainable as it stands.

Parameters are psycopg's named ones (`%(ids)s`), so a file runs as it is in the driver; SQLAlchemy only
lends the connection.
"""

from functools import cache
from importlib.resources import files
from typing import Any

from pydantic_core import to_json

from shared_state.connection import Connection, Reply


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
    return connection.send(sql, parameters).rows()


def json_text(value: object) -> str:
    """A JSON parameter: plain values, models, ids. What is no JSON (NaN, half a surrogate pair) is refused, here or by
    Postgres."""
    return to_json(value).decode()


def send(connection: Connection, name: str, **parameters: Any) -> Reply:
    """Run one named statement without waiting: its reply may be read later, even after the commit."""
    return connection.send(load(name), parameters)
