"""A database for each side, on one server."""

import psycopg
from psycopg import sql

from orchestrator.embedded import EmbeddedPostgres


def make_database(server: EmbeddedPostgres, name: str) -> None:
    """Nothing to do when it is there."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        if connection.execute("select 1 from pg_database where datname = %s", [name]).fetchone() is None:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
