"""`orchestrator dev` under fire: everything it runs is killed while a task of 300 steps goes on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import redis

from orchestrator.client import Client
from orchestrator.embedded.folder import free_port
from shared_state.engine import make_engine
from shared_state.verify import Violation, violations

START_SECONDS = 90
RECOVERY_SECONDS = 60


class Dev:
    """A running `orchestrator dev`, as its dev.json tells of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._client: Client | None = None
        command = [sys.executable, "-m", "orchestrator", "dev", "--port", str(free_port()), "--no-flower"]
        environment = {**os.environ, "ORCHESTRATOR_LEASE_SECONDS": "5", "ORCHESTRATOR_REPUBLISH_SECONDS": "2"}
        with (folder / "dev.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--data-dir", str(folder / "data")], stdout=log, stderr=log, env=environment
            )

    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.folder / "data" / "dev.json").read_text())
        return record

    def pid(self, name: str) -> int:
        return int(next(part["pid"] for part in self.record()["parts"] if part["name"] == name))

    def client(self) -> Client:
        if self._client is None:
            record = self.record()
            self._client = Client(record["url"], record["key"])
        return self._client

    def stop(self) -> None:
        if self._client is not None:
            self._client.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def setting(self, name: str) -> str:
        """As the supervisor gave it to its loops process."""
        return psutil.Process(self.pid("loops")).environ()[f"ORCHESTRATOR_{name}"]

    def kill(self, name: str) -> None:
        """kill -9, then wait until the supervisor has started it again."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        self.wait_for(lambda: self.pid(name) != pid, RECOVERY_SECONDS)

    def wait_for(self, done: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        error: Exception | None = None
        while time.monotonic() < deadline:
            try:
                if done():
                    return
            except Exception as caught:  # what is being killed answers in any way
                error = caught
            time.sleep(0.1)
        log = (self.folder / "dev.log").read_text(errors="replace")[-2000:]
        raise AssertionError(f"not within {seconds} s; last error {error!r}; dev said: {log}")


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Dev]:
    running = Dev(tmp_path)
    running.wait_for(lambda: bool(running.client().ready()), START_SECONDS)
    yield running
    running.stop()


class Watch:
    """Asks for safety violations all the time, whenever the database answers."""

    def __init__(self, url: str) -> None:
        self.found: list[Violation] = []
        self.answers = 0
        self._engine = make_engine(url, pool_size=1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.3):
            try:
                self.found += [each for each in violations(self._engine) if each.kind == "safety"]
                self.answers += 1
            except Exception:  # the database is being killed
                continue

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._engine.dispose()


def plan_of_300() -> dict[str, Any]:
    """Ten fans of 29 short steps in threads and processes, each fan behind the join of the one before."""
    steps: list[dict[str, Any]] = []
    for fan in range(10):
        needs = [f"join-{fan - 1}"] if fan else []
        leaves = [f"leaf-{fan}-{n}" for n in range(29)]
        for n, leaf in enumerate(leaves):
            agent, given = ("sleep", {"seconds": 0.2}) if n % 3 == 0 else ("echo", {"n": n})
            steps.append({"id": leaf, "agent": agent, "input": given, "needs": needs})
        steps.append({"id": f"join-{fan}", "agent": "echo", "input": {"fan": fan}, "needs": leaves})
    return {"steps": steps}


@pytest.mark.timeout(300)
def test_a_task_of_300_steps_survives_the_death_of_everything(dev: Dev) -> None:
    database_url, broker_url = dev.setting("DATABASE_URL"), dev.setting("BROKER_URL")
    task_id = dev.client().submit("diagnostics", plan=plan_of_300())["id"]

    def wait_for_steps(count: int) -> None:
        dev.wait_for(lambda: dev.client().task(task_id)["step_counts"].get("succeeded", 0) >= count, RECOVERY_SECONDS)

    watch = Watch(database_url)
    try:
        for count, part in [(10, "worker-1"), (40, "worker-2"), (70, "loops")]:
            wait_for_steps(count)
            dev.kill(part)
        with redis.Redis.from_url(broker_url) as broker:
            broker.flushall()
        for count, part in [(110, "redis"), (150, "postgres"), (200, "api")]:
            wait_for_steps(count)
            dev.kill(part)
        wait_for_steps(300)
        final = dev.client().wait(task_id, timeout_seconds=60)
        restarts = {part["name"]: part["restarts"] for part in dev.record()["parts"]}
    finally:
        watch.stop()
    assert (final["state"], final["step_counts"]) == ("succeeded", {"succeeded": 300})
    # One restart for each kill: what dies must not take anything else with it, a worker with its broker above all.
    assert {name: count for name, count in restarts.items() if name.startswith("worker")} == {
        "worker-1": 1,
        "worker-2": 1,
    }
    assert watch.answers > 5
    assert watch.found == []
    engine = make_engine(database_url, pool_size=1)
    assert violations(engine) == []
    engine.dispose()
    with psycopg.connect(database_url) as connection:
        twice = "select step_id from attempts where state = 'succeeded' group by step_id having count(*) > 1"
        assert connection.execute(twice).fetchall() == []
