"""The third side: what a careful team writes on Celery by hand, with Postgres as the record of what was done.

Every step is one transaction that records its output, by primary key, so that a redelivered message records nothing
twice; after the commit the next step is published. A join is a counter in the workflow's row. Messages are
acknowledged late. There are no leases, no gates, no relay for what was committed and never published, and a lost
message is found by nobody. `python -m tests.benchmarks.handwritten SLOTS NAME` is one of its worker processes.
"""

import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
from celery import Celery
from psycopg.types.json import Jsonb
from sqlalchemy.pool import PoolProxiedConnection, QueuePool

from orchestrator.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.benchmarks.bodies import Item, do_step
from tests.benchmarks.crew import Crew
from tests.benchmarks.databases import make_database
from tests.benchmarks.measure import client_port
from tests.benchmarks.workloads import Workload

DATABASE = "handwritten"
BROKER_DATABASE = 2
"""Of the same Redis server; ours uses 0, the canvas 1."""
DATABASE_VARIABLE, BROKER_VARIABLE = "HANDWRITTEN_DATABASE_URL", "HANDWRITTEN_BROKER_URL"
CONNECTIONS = 10
"""Of a worker process, for its 100 threads: more only wait in Postgres instead of in the pool (tried: 20, 50)."""

TABLES = """
create table workflows (
    id uuid primary key,
    state text not null default 'running',
    steps_left int not null default 0,
    created_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz
);
create table steps (
    workflow_id uuid not null references workflows,
    name text not null,
    status text not null,
    output jsonb not null,
    finished_at timestamptz not null default clock_timestamp(),
    primary key (workflow_id, name)
);
"""
SUBMIT = "insert into workflows (id, steps_left) values (%s, %s)"
RECORD = """insert into steps (workflow_id, name, status, output) values (%s, %s, 'succeeded', %s)
on conflict (workflow_id, name) do nothing"""
RECORD_AND_COUNT = f"""with recorded as ({RECORD} returning 1)
update workflows set steps_left = steps_left - (select count(*) from recorded) where id = %s returning steps_left"""
RECORD_AND_FINISH = f"""with recorded as ({RECORD} returning 1)
update workflows set state = 'succeeded', finished_at = clock_timestamp() where id = %s and finished_at is null"""
OUTPUTS = "select output from steps where workflow_id = %s and name like 'work%%' order by name"


class Record:
    """The database, through a pool. psycopg prepares by itself what it has sent five times."""

    def __init__(self, url: str, connections: int = CONNECTIONS) -> None:
        self._pool = QueuePool(lambda: psycopg.connect(url), pool_size=connections, max_overflow=0, timeout=60)

    def submit(self, workflow: str, width: int) -> None:
        with self._transaction() as connection:
            _execute(connection, SUBMIT, workflow, width)

    def step(self, workflow: str, name: str, output: Item) -> None:
        with self._transaction() as connection:
            _execute(connection, RECORD, workflow, name, _json(output))

    def step_of_group(self, workflow: str, name: str, output: Item) -> bool:
        """Whether it was the last of them. The workflow's row is where all of a group queue up."""
        with self._transaction() as connection:
            rows = _execute(connection, RECORD_AND_COUNT, workflow, name, _json(output), workflow)
            return bool(rows[0][0] == 0)

    def join(self, workflow: str) -> Item:
        """Read what the group made, record the first of it."""
        with self._transaction() as connection:
            item = Item.model_validate(_execute(connection, OUTPUTS, workflow)[0][0])
            _execute(connection, RECORD, workflow, "join", _json(item))
            return item

    def finish(self, workflow: str, name: str, output: Item) -> None:
        with self._transaction() as connection:
            _execute(connection, RECORD_AND_FINISH, workflow, name, _json(output), workflow)

    def close(self) -> None:
        self._pool.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[PoolProxiedConnection]:
        connection = self._pool.connect()
        try:
            yield connection
            connection.commit()
        finally:
            connection.close()  # back to the pool, which rolls back what was not committed


def make_handlers(broker_url: str, record: Record) -> Celery:
    """A message carries what the next step needs, so that it reads nothing before it writes."""
    app = Celery("handwritten", broker=broker_url, set_as_current=False)
    app.conf.update(task_acks_late=True, task_ignore_result=True, broker_connection_retry_on_startup=True)

    @app.task(name="plan", shared=False)
    def plan(workflow: str, item: dict[str, Any], width: int) -> None:
        given = Item.model_validate(item)
        do_step(given, workflow, "plan")
        record.step(workflow, "plan", given)
        if width == 1:
            app.tasks["work"].apply_async((workflow, item))
            return
        with app.producer_or_acquire() as producer:
            for number in range(width):
                app.tasks["work_of_group"].apply_async((workflow, item, number), producer=producer)

    @app.task(name="work", shared=False)
    def work(workflow: str, item: dict[str, Any]) -> None:
        given = Item.model_validate(item)
        do_step(given, workflow, "work")
        record.step(workflow, "work", given)
        app.tasks["review"].apply_async((workflow, given.model_dump()))

    @app.task(name="work_of_group", shared=False)
    def work_of_group(workflow: str, item: dict[str, Any], number: int) -> None:
        given = Item.model_validate(item)
        do_step(given, workflow, f"work{number}")
        if record.step_of_group(workflow, f"work{number}", given):
            app.tasks["join"].apply_async((workflow,))

    @app.task(name="join", shared=False)
    def join(workflow: str) -> None:
        app.tasks["review"].apply_async((workflow, record.join(workflow).model_dump()))

    @app.task(name="review", shared=False)
    def review(workflow: str, item: dict[str, Any]) -> None:
        given = Item.model_validate(item)
        do_step(given, workflow, "review")
        record.finish(workflow, "review", given)

    return app


class Handwritten:
    name = "handwritten"
    database = DATABASE

    def __init__(self, folder: Path, postgres: EmbeddedPostgres, server: EmbeddedRedis, *, workers: int, slots: int):
        self._servers: dict[str, EmbeddedPostgres | EmbeddedRedis] = {"postgres": postgres, "redis": server}
        url, broker_url = postgres.url_of(DATABASE), urlsplit(server.url)._replace(path=f"/{BROKER_DATABASE}").geturl()
        _make_tables(postgres)
        self._record = Record(url)
        self._app = make_handlers(broker_url, self._record)
        # One transaction for all looking: polling must not count as commits.
        self._eye = psycopg.connect(url, prepare_threshold=1)
        self._eyes = {client_port(self._eye)}
        environment = {DATABASE_VARIABLE: url, BROKER_VARIABLE: broker_url}
        self._crew = Crew(self._app, __name__, folder, count=workers, slots=slots, environment=environment)

    def submit(self, workload: Workload, count: int) -> list[str]:
        return [self._submit(workload) for _ in range(count)]

    def finished(self, ids: Collection[str]) -> set[str]:
        """A failed one is only seen by never ending, as in most such systems."""
        query = "select id from workflows where id = any(%s::uuid[]) and finished_at is not null"
        return {str(row[0]) for row in self._eye.execute(query, [list(ids)])}

    def components(self) -> Mapping[str, Sequence[int]]:
        servers = {name: [server.pid] for name, server in self._servers.items() if server.pid is not None}
        return {"workers": self._crew.pids(), **servers}

    def eyes(self) -> Set[int]:
        return self._eyes

    def stop(self) -> None:
        self._crew.stop()
        self._eye.close()
        self._record.close()

    def _submit(self, workload: Workload) -> str:
        workflow = str(uuid4())
        self._record.submit(workflow, workload.width)
        self._app.tasks["plan"].apply_async((workflow, workload.item.model_dump(), workload.width))
        return workflow


def _make_tables(postgres: EmbeddedPostgres) -> None:
    make_database(postgres, DATABASE)
    with psycopg.connect(postgres.url_of(DATABASE)) as connection:
        connection.execute(TABLES)


def _execute(connection: PoolProxiedConnection, statement: str, *parameters: object) -> list[Any]:
    cursor = connection.cursor()
    cursor.execute(statement, parameters)
    return list(cursor.fetchall()) if cursor.description else []


def _json(item: Item) -> Jsonb:
    return Jsonb(item.model_dump())


def main(slots: str, name: str) -> None:
    app = make_handlers(os.environ[BROKER_VARIABLE], Record(os.environ[DATABASE_VARIABLE]))
    app.worker_main(["worker", "--pool=threads", f"--concurrency={slots}", f"--hostname={name}@%h"])


if __name__ == "__main__":
    main(*sys.argv[1:])
