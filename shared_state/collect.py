"""Artifact collection: bytes that nothing refers to any more go, some time after they were last put.

A reference is the sha256 in hex, anywhere in a row of the artifact's tenant: in an input, an output, a proposal, an
event, a journal. Which columns those are the database itself is asked, so that a table which is added later counts.
When the last task that refers to an artifact is pruned, the artifact is collected.

An attempt may put an artifact and be done with its output much later. So nothing is taken that was put within the time
of grace, which is longer than the longest attempt; and putting the same bytes again counts as putting
(`artifacts.py`), so that an old artifact nobody refers to cannot go between a put and the output that names it.
"""

from collections import defaultdict
from collections.abc import Iterator

from psycopg import sql
from sqlalchemy import Engine

from shared_state.artifacts import Bodies, body_name, refuses
from shared_state.connection import Connection
from shared_state.engine import transaction
from shared_state.statements import query, run
from shared_state.verify import read_one_moment

LOOK_SECONDS = 600.0
PASS_LIMIT = 10_000
_BATCH = 100
Candidate = tuple[str, str]


def collect_artifacts(engine: Engine, bodies: Bodies | None, *, grace_days: float) -> int:
    """Remove what is unreferenced and was last put longer than `grace_days` ago; how many that were.

    Raises `Unavailable` where the store of the bytes does not answer; what it did remove stays removed.
    """
    removed = 0
    found = unreferenced(engine, grace_days=grace_days)
    for start in range(0, len(found), _BATCH):
        batch = found[start : start + _BATCH]
        with transaction(engine) as connection:
            gone = run(
                connection,
                "collect",
                tenants=[tenant for tenant, _ in batch],
                sha256s=[sha256 for _, sha256 in batch],
                locations=["postgres", *([bodies.location] if bodies else [])],
                days=grace_days,
            )
            # While the rows are locked: who puts these bytes again waits, finds no row, and writes them anew.
            outside = [body_name(row["tenant_id"], row["sha256"]) for row in gone if row["location"] != "postgres"]
            try:
                if bodies is not None and outside:
                    bodies.remove(outside)
            except OSError as error:
                raise refuses("remove", error) from error
        removed += len(gone)
    return removed


def unreferenced(engine: Engine, *, grace_days: float) -> list[Candidate]:
    """Tenants and sha256s, at most `PASS_LIMIT`. Looks through all that is stored, where anything is old enough."""
    with transaction(engine) as connection:
        read_one_moment(connection, timeout_seconds=LOOK_SECONDS)
        if not query(connection, f"select {_OLD} as any", days=grace_days)[0]["any"]:
            return []
        rows = query(connection, _look(connection), days=grace_days, limit=PASS_LIMIT)
    return [(row["tenant_id"], row["sha256"]) for row in rows]


_PUT_BEFORE = "created_at < clock_timestamp() - make_interval(secs => %(days)s * 86400.0)"
_OLD = f"exists (select from artifacts where {_PUT_BEFORE})"


def _look(connection: Connection) -> str:
    parts = " union ".join(_references(connection))
    return f"""with referenced as materialized ({parts})
        select a.tenant_id, a.sha256 from artifacts a
        where {_PUT_BEFORE} and not exists
            (select from referenced r where r.tenant_id = a.tenant_id and r.sha256 = a.sha256)
        order by a.tenant_id, a.sha256 limit %(limit)s"""


def _references(connection: Connection) -> Iterator[str]:
    """For each table with a tenant: every run of 64 hexadecimal digits in what is text or JSON in it."""
    columns: dict[str, list[str]] = defaultdict(list)
    for row in run(connection, "text_columns"):
        columns[row["table_name"]].append(row["column_name"])
    for table, names in columns.items():
        texts = ", ".join(f"t.{sql.Identifier(name).as_string()}::text" for name in names)
        yield f"""select t.tenant_id, m[1] as sha256 from {sql.Identifier(table).as_string()} t
            cross join lateral regexp_matches(concat_ws(' ', {texts}), '[0-9a-f]{{64}}', 'g') m"""
