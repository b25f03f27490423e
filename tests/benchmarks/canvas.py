"""The other side: plain Celery as its documentation shows it - canvas, Redis as result backend, nothing durable.

`python -m tests.benchmarks.canvas SLOTS NAME` is one of its worker processes; CANVAS_URL names its Redis.
"""

import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence, Set
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
from celery import Celery, chain, group
from celery.backends.redis import RedisBackend, ResultConsumer

from orchestrator.embedded import EmbeddedRedis
from tests.benchmarks.bodies import Item, do_step
from tests.benchmarks.crew import Crew
from tests.benchmarks.workloads import Workload

URL_VARIABLE = "CANVAS_URL"
BROKER_DATABASE = 1
"""Of the same Redis server; ours uses 0."""


class Unwatched(ResultConsumer):
    """Celery subscribes to every member of a group as it is made. The driver looks at results by itself, so it is
    spared that, which would cost it time and outlive its Redis at the end of a run."""

    def consume_from(self, task_id: str) -> None:
        """Called once per result; here nothing waits for it."""


class DriverBackend(RedisBackend):
    ResultConsumer = Unwatched


def make_canvas(url: str, backend: str | None = None) -> Celery:
    """Everything that is not named here is Celery's default."""
    app = Celery("canvas", broker=url, backend=backend or url, set_as_current=True)
    app.conf.broker_connection_retry_on_startup = True

    @app.task(name="plan", shared=False)
    def plan(item: dict[str, Any], workflow: str) -> dict[str, Any]:
        return _step(item, workflow, "plan")

    @app.task(name="work", shared=False)
    def work(item: dict[str, Any], workflow: str, number: int) -> dict[str, Any]:
        return _step(item, workflow, f"work{number}")

    @app.task(name="join", shared=False)
    def join(items: list[dict[str, Any]]) -> dict[str, Any]:
        return items[0]

    @app.task(name="review", shared=False)
    def review(item: dict[str, Any], workflow: str) -> dict[str, Any]:
        return _step(item, workflow, "review")

    return app


class Canvas:
    name = "celery"
    database = None

    def __init__(self, folder: Path, server: EmbeddedRedis, *, workers: int, slots: int) -> None:
        self._server = server
        self._url = urlsplit(server.url)._replace(path=f"/{BROKER_DATABASE}").geturl()
        self._app = make_canvas(self._url, f"{__name__}:{DriverBackend.__name__}+{self._url}")
        self._count = 0
        self._client = redis.Redis.from_url(self._url, single_connection_client=True)
        self._eyes = {int(str(self._client.client_info()["addr"]).rpartition(":")[2])}
        self._crew = Crew(
            self._app, __name__, folder, count=workers, slots=slots, environment={URL_VARIABLE: self._url}
        )

    def submit(self, workload: Workload, count: int) -> list[str]:
        return [self._submit(workload) for _ in range(count)]

    def finished(self, ids: Collection[str]) -> set[str]:
        wanted = list(ids)
        results = self._client.mget([f"celery-task-meta-{each}" for each in wanted])
        ended = {each: json.loads(result) for each, result in zip(wanted, results, strict=True) if result is not None}
        for result in ended.values():
            if result["status"] == "FAILURE":
                raise RuntimeError(f"a canvas failed: {result['result']}")
        return {each for each, result in ended.items() if result["status"] == "SUCCESS"}

    def components(self) -> Mapping[str, Sequence[int]]:
        return {
            "workers": self._crew.pids(),
            "redis": [self._server.pid] if self._server.pid is not None else [],
        }

    def eyes(self) -> Set[int]:
        return self._eyes

    def kill_worker(self) -> None:
        """SIGKILL one worker process."""
        self._crew.kill_one()

    def stop(self) -> None:
        self._crew.stop()
        self._client.close()

    def _submit(self, workload: Workload) -> str:
        self._count += 1
        workflow = f"workflow{self._count}"
        tasks = self._app.tasks
        item = workload.item.model_dump()
        steps: list[Any] = [tasks["plan"].s(item, workflow)]
        if workload.width == 1:
            steps.append(tasks["work"].s(workflow, 0))
        else:
            # A group in a chain is a chord: its join waits for all of it.
            steps.append(group(tasks["work"].s(workflow, number) for number in range(workload.width)))
            steps.append(tasks["join"].s())
        steps.append(tasks["review"].s(workflow))
        return str(chain(*steps).apply_async().id)


def _step(item: dict[str, Any], workflow: str, step: str) -> dict[str, Any]:
    given = Item.model_validate(item)
    do_step(given, workflow, step)
    return given.model_dump()


def main(slots: str, name: str) -> None:
    app = make_canvas(os.environ[URL_VARIABLE])
    app.worker_main(["worker", "--pool=threads", f"--concurrency={slots}", f"--hostname={name}@%h"])


if __name__ == "__main__":
    main(*sys.argv[1:])
