"""The other side: plain Celery as its documentation shows it - canvas, Redis as result backend, nothing durable.

`python -m tests.benchmarks.canvas SLOTS` is one of its worker processes; CANVAS_URL names its Redis.
"""

import json
import os
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from signal import SIGTERM
from typing import Any
from urllib.parse import urlsplit

import redis
from celery import Celery, chain, group
from celery.backends.redis import RedisBackend, ResultConsumer

from orchestrator import launch
from orchestrator.embedded import EmbeddedRedis
from tests.benchmarks.bodies import Item, do_step
from tests.benchmarks.measure import await_workers
from tests.benchmarks.workloads import Workload

CHECKOUT = Path(__file__).parents[2]
URL_VARIABLE = "CANVAS_URL"
DATABASE = 1
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

    @app.task(name="plan")
    def plan(item: dict[str, Any], workflow: str) -> dict[str, Any]:
        return _step(item, workflow, "plan")

    @app.task(name="work")
    def work(item: dict[str, Any], workflow: str, number: int) -> dict[str, Any]:
        return _step(item, workflow, f"work{number}")

    @app.task(name="join")
    def join(items: list[dict[str, Any]]) -> dict[str, Any]:
        return items[0]

    @app.task(name="review")
    def review(item: dict[str, Any], workflow: str) -> dict[str, Any]:
        return _step(item, workflow, "review")

    return app


class Canvas:
    name = "celery"

    def __init__(self, folder: Path, server: EmbeddedRedis, *, workers: int, slots: int) -> None:
        self._folder = folder
        self._slots = slots
        self._server = server
        self._url = urlsplit(server.url)._replace(path=f"/{DATABASE}").geturl()
        self._app = make_canvas(self._url, f"{__name__}:{DriverBackend.__name__}+{self._url}")
        self._count = 0
        self._client = redis.Redis.from_url(self._url)
        self._workers = {name: self._start_worker(name) for name in (f"canvas{n}" for n in range(workers))}
        await_workers(self._app, workers)

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
            "workers": [worker.pid for worker in self._workers.values()],
            "redis": [self._server.pid] if self._server.pid is not None else [],
        }

    def kill_worker(self) -> str:
        """SIGKILL one worker process; its name."""
        name = next(iter(self._workers))
        self._workers[name].kill()
        self._workers[name].wait()
        return name

    def stop(self) -> None:
        for worker in self._workers.values():
            worker.send_signal(SIGTERM)
        for worker in self._workers.values():
            with suppress(subprocess.TimeoutExpired):
                worker.wait(10)
            worker.kill()
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

    def _start_worker(self, name: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                launch.command([sys.executable, "-m", "tests.benchmarks.canvas", str(self._slots), name]),
                env={**os.environ, "PYTHONPATH": str(CHECKOUT), URL_VARIABLE: self._url},
                cwd=CHECKOUT,
                stdout=log,
                stderr=log,
            )


def _step(item: dict[str, Any], workflow: str, step: str) -> dict[str, Any]:
    given = Item.model_validate(item)
    do_step(given, workflow, step)
    return given.model_dump()


def main(slots: str, name: str) -> None:
    app = make_canvas(os.environ[URL_VARIABLE])
    app.worker_main(["worker", "--pool=threads", f"--concurrency={slots}", f"--hostname={name}@%h"])


if __name__ == "__main__":
    main(*sys.argv[1:])
