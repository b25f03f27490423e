"""Whatever dies while 300 steps run - workers, loops, broker, database - the task ends, each step accepted once."""

import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
import redis as redis_client

from contracts.errors import Unavailable
from orchestrator.embedded import EmbeddedPostgres, EmbeddedRedis
from shared_state.engine import make_engine
from shared_state.migrate import upgrade
from shared_state.verify import Violation, violations

from ..legal_moves import install as install_legal_moves
from .house import LOOPS, House, Step, fan

LAYERS, WIDTH = 15, 19
"""Every layer ends in a join that the next one needs, so that the task takes its time and faults strike all along."""


class Watch(threading.Thread):
    """Looks for violations of safety whenever the database answers."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.found: list[Violation] = []
        self.looks = 0
        self._url = url
        self._ended = threading.Event()

    def run(self) -> None:
        engine = make_engine(self._url, pool_size=1)
        while not self._ended.wait(0.4):
            try:
                self.found += [each for each in violations(engine) if each.kind == "safety"]
                self.looks += 1
            except Unavailable:
                continue
        engine.dispose()

    def end(self) -> None:
        self._ended.set()
        self.join(10)


class Faults:
    """A house on servers of its own, and what can happen to it."""

    def __init__(self, house: House, postgres: EmbeddedPostgres, redis: EmbeddedRedis) -> None:
        self.house = house
        self._postgres = postgres
        self._redis = redis

    def kill_workers(self, supervised: bool) -> None:
        for name in ("w1", "w2"):
            self.house.kill(name)
            if supervised:
                self.house.expire(name)
        self.house.start_workers("w1", "w2")

    def kill_loops(self) -> None:
        self.house.kill(LOOPS)
        self.house.start_loops()

    def wipe_redis(self) -> None:
        with redis_client.Redis.from_url(self._redis.url) as client:
            client.flushall()

    def kill_redis(self) -> None:
        """It comes back empty, on the same port."""
        assert self._redis.pid is not None
        os.kill(self._redis.pid, signal.SIGKILL)
        self.house.until(lambda: not self._redis.alive(), "redis is dead")
        shutil.rmtree(self._redis.data_dir / "data")
        self._redis.start()

    def kill_postgres(self) -> None:
        assert self._postgres.pid is not None
        os.kill(self._postgres.pid, signal.SIGKILL)
        self.house.until(lambda: not self._postgres.alive(), "postgres is dead")
        self._postgres.start()


@pytest.fixture
def faults(tmp_path: Path) -> Iterator[Faults]:
    with EmbeddedPostgres(tmp_path / "postgres") as postgres, EmbeddedRedis(tmp_path / "redis") as redis:
        upgrade(postgres.url)
        install_legal_moves(postgres.url)
        with House(tmp_path, postgres.url, redis.url) as house:
            house.start_loops()
            house.start_workers("w1", "w2")
            yield Faults(house, postgres, redis)


def mixed(key: str) -> Step:
    number = int(key.partition(".")[2])
    step: Step = {"agent": "echo", "input": {"key": key}}
    if number % 3 == 1:
        step["agent"] = "echo_process"
    if number % 3 == 2:
        step |= {"agent": "sleep", "input": {"seconds": 1.0}}
    return step


def is_at(house: House, task_id: UUID, layer: int, workers: set[str]) -> bool:
    """Whether steps of that layer or a later one sleep, at least one in each of these workers."""
    sleeping = [each for each in house.attempts(task_id) if each["state"] == "running" and each["agent"] == "sleep"]
    holders = {each["worker"] for each in sleeping if int(each["key"].partition(".")[0]) >= layer}
    return bool(holders) and holders >= workers


@pytest.mark.timeout(180)
def test_a_task_survives_everything(faults: Faults) -> None:
    house = faults.house
    watch = Watch(house.settings.database_url)
    watch.start()
    pids: dict[str, int] = {}
    steps = fan(LAYERS, WIDTH, mixed)
    assert len(steps) == 300
    task_id = house.submit(steps)
    both = {"w1", "w2"}
    strikes: list[tuple[int, set[str], Callable[[], None]]] = [
        (1, both, lambda: faults.kill_workers(supervised=True)),
        (3, both, lambda: faults.kill_workers(supervised=False)),
        (6, set(), faults.kill_loops),
        (7, set(), faults.wipe_redis),
        (8, set(), faults.kill_redis),
        (10, set(), faults.kill_postgres),
    ]
    for number, (layer, holders, strike) in enumerate(strikes):
        house.until(
            lambda layer=layer, holders=holders: is_at(house, task_id, layer, holders),
            f"layer {layer} runs, for strike {number}",
            30,
        )
        strike()
        if number == 1:
            pids = {name: house.pid(name) for name in both}
    house.wait(task_id, 60)
    watch.end()

    attempts = house.attempts(task_id)
    accepted = Counter(each["key"] for each in attempts if each["state"] == "succeeded")
    assert accepted == dict.fromkeys((step["id"] for step in steps), 1)
    assert all(each["accepted_epoch"] == each["epoch"] for each in attempts if each["state"] == "succeeded")
    codes = Counter(each["error"]["code"] for each in attempts if each["state"] == "expired")
    assert codes["worker.died"], "the killed workers held steps, which were taken from them at once"
    assert codes["lease.expired"], "those that nobody reported held steps too, until their leases lapsed"
    assert {name: house.pid(name) for name in pids} == pids, "no worker dies of a server that does"
    assert watch.looks > 20
    assert watch.found == []
    assert house.violations() == []
