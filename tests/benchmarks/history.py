"""A past for a database: one finished task, copied with all its rows until there are as many steps as asked for."""

import psycopg
from psycopg import Connection, sql

BATCH = 20_000
"""Copies to a statement."""

COPY_ID = """
create function copy_id(id uuid, copy int) returns uuid language sql immutable as $$
    -- Ordered by time as real ones are: every copy is a millisecond older than the one before.
    select (lpad(to_hex(('x' || substr(replace(id::text, '-', ''), 1, 12))::bit(48)::bigint - 1000 - copy), 12, '0')
        || '7' || substr(md5(id::text || copy), 14))::uuid
$$"""
COLUMNS = """
select a.attname, a.atttypid = 'uuid'::regtype from pg_attribute a
where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped
    and a.attidentity = '' and a.attgenerated = ''"""
OF_TASKS = """
select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid
where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace and a.attname = 'task_id'"""


def fill(url: str, task_id: str, steps: int) -> None:
    """Make the rows of `task_id` the past of this database: at least `steps` finished steps, analysed and on disk.

    Whatever table names its task is copied, ids changed and all else as it was, so references hold as they did.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set session_replication_role = replica")  # no triggers: what is copied refers to copies
        connection.execute(COPY_ID)
        row = connection.execute("select count(*) from steps where task_id = %s", [task_id]).fetchone()
        copies = steps // (row[0] if row else 1)
        tables = [("tasks", "id"), *((str(row[0]), "task_id") for row in connection.execute(OF_TASKS).fetchall())]
        for first in range(0, copies, BATCH):
            for table, key in tables:
                _copy(connection, table, key, task_id, first, min(first + BATCH, copies))
        connection.execute("vacuum (freeze, analyze)")
        connection.execute("checkpoint")


def _copy(connection: Connection, table: str, key: str, task_id: str, first: int, end: int) -> None:
    columns = connection.execute(COLUMNS, [table]).fetchall()
    names = sql.SQL(", ").join(sql.Identifier(name) for name, _ in columns)
    values = sql.SQL(", ").join(
        sql.SQL("copy_id({}, copy)" if is_id else "{}").format(sql.Identifier("given", name)) for name, is_id in columns
    )
    statement = "insert into {} ({}) select {} from {} given, generate_series(%s::int, %s::int) copy where {} = %s"
    connection.execute(
        sql.SQL(statement).format(
            sql.Identifier(table), names, values, sql.Identifier(table), sql.Identifier("given", key)
        ),
        [first, end - 1, task_id],
    )
