"""The worker processes of a baseline: plain Celery workers, which nobody supervises."""

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from signal import SIGTERM

from celery import Celery

from orchestrator import launch
from tests.benchmarks.measure import await_workers

CHECKOUT = Path(__file__).parents[2]


class Crew:
    """`count` processes `python -m MODULE SLOTS NAME`; `environment` tells them where the servers are."""

    def __init__(
        self, app: Celery, module: str, folder: Path, *, count: int, slots: int, environment: Mapping[str, str]
    ) -> None:
        self._command = [sys.executable, "-m", module, str(slots)]
        self._folder = folder
        self._environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), **environment}
        prefix = module.rpartition(".")[2]
        self._workers = {name: self._start(name) for name in (f"{prefix}{number}" for number in range(count))}
        await_workers(app, count)

    def pids(self) -> list[int]:
        return [worker.pid for worker in self._workers.values()]

    def kill_one(self) -> None:
        """SIGKILL the first, and wait until it is gone."""
        worker = next(iter(self._workers.values()))
        worker.kill()
        worker.wait()

    def stop(self) -> None:
        for worker in self._workers.values():
            worker.send_signal(SIGTERM)
        for worker in self._workers.values():
            with suppress(subprocess.TimeoutExpired):
                worker.wait(10)
            worker.kill()

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                launch.command([*self._command, name]), env=self._environment, cwd=CHECKOUT, stdout=log, stderr=log
            )
