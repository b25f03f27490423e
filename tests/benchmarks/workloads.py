"""W1, W2 and W3 as loads on a system: how many workflows are kept in flight, and what is read off them."""

import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tests.benchmarks.bodies import Item
from tests.benchmarks.measure import Measured, Memory, Meter, Snapshot, memory_of
from tests.benchmarks.sockets import Traffic

PAYLOAD = "x" * 990
"""With its JSON around it about 1 KiB."""
STALL_SECONDS = 60.0


@dataclass(frozen=True)
class Workload:
    """`steps` counts every plan, execute, join and review run of one workflow."""

    name: str
    steps: int
    width: int = 1
    in_flight: int = 200
    clients: int = 4
    """Threads that submit; each takes up to `batch` workflows to a call."""
    batch: int = 1
    item: Item = field(default_factory=lambda: Item(text=PAYLOAD))


W1 = Workload("W1", steps=3)
W1_BATCH = Workload("W1 batch", steps=3, clients=1, batch=100)
W2 = Workload("W2", steps=203, width=200, in_flight=4)
W3 = Workload("W3", steps=3, in_flight=1, clients=1)
W4 = Workload("W4", steps=3, in_flight=100)


class Stalled(Exception):
    """Workflows that should have ended did not. The text says how many of which system."""


class System(Measured, Protocol):
    """One side of the comparison."""

    name: str

    def submit(self, workload: Workload, count: int) -> list[str]:
        """Start `count` workflows in one call; their ids."""
        ...

    def finished(self, ids: Collection[str]) -> set[str]:
        """Those of `ids` that have succeeded. Raises `RuntimeError` when one has failed."""
        ...


@dataclass(frozen=True)
class Rates:
    """One window of steady load. CPU is in seconds per 1,000 steps, memory at its end, both by component.

    `bytes_per_step` is what crossed the sockets of each server, both ways, and as `wal` what Postgres logged;
    `round_trips_per_step` is by server.
    """

    workflows: int
    seconds: float
    workflows_per_s: float
    steps_per_s: float
    cpu_seconds_per_1000_steps: dict[str, float]
    commits_per_step: float
    round_trips_per_step: dict[str, float]
    bytes_per_step: dict[str, float]
    memory: dict[str, Memory]


def run_load(system: System, workload: Workload, meter: Meter, *, seconds: float, warmup_seconds: float) -> Rates:
    """Keep `in_flight` workflows open; measure from one completion to another at least `seconds` later; drain."""
    load = _Load(system, workload)
    load.start()
    try:
        load.watch_until(time.monotonic() + warmup_seconds)
        first, first_done = meter.read(system), load.done
        load.watch_until(time.monotonic() + seconds)
        last, last_done = meter.read(system), load.done
        memory = memory_of(system)
    finally:
        load.stop()
    load.drain()
    return _rates(workload, last_done - first_done, first, last, meter.traffic(system, first, last), memory)


def run_latencies(system: System, workload: Workload, *, count: int, warmup: int = 5) -> list[float]:
    """Seconds from submission to seeing the end, one workflow at a time."""
    latencies = []
    for _ in range(warmup + count):
        started = time.perf_counter()
        ids = set(system.submit(workload, 1))
        while not system.finished(ids):
            if time.perf_counter() - started > STALL_SECONDS:
                raise Stalled(f"{system.name}: one workflow alone did not end within {STALL_SECONDS:g} s")
            time.sleep(0.001)
        latencies.append(time.perf_counter() - started)
    return latencies[warmup:]


class _Load:
    """Client threads that submit whenever a place is free; the caller's thread sees workflows end."""

    def __init__(self, system: System, workload: Workload) -> None:
        self.done = 0
        self._system = system
        self._workload = workload
        self._free = threading.Semaphore(workload.in_flight)
        self._open: set[str] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._errors: list[Exception] = []
        self._clients = [threading.Thread(target=self._submit, daemon=True) for _ in range(workload.clients)]

    def start(self) -> None:
        for client in self._clients:
            client.start()

    def stop(self) -> None:
        self._stopping.set()
        self._free.release(len(self._clients))
        for client in self._clients:
            client.join(STALL_SECONDS)

    def watch_until(self, moment: float) -> None:
        """Until the first completion after `moment`, so that a window begins and ends with one."""
        while self._watch_next() <= moment:
            pass

    def drain(self) -> None:
        while self._open:
            self._watch_next()

    def _watch_next(self) -> float:
        """Wait for completions; the time at which they were seen."""
        deadline = time.monotonic() + STALL_SECONDS
        while time.monotonic() < deadline:
            if self._errors:
                raise self._errors[0]
            with self._lock:
                ids = set(self._open)
            ended = self._system.finished(ids) if ids else set()
            if ended:
                with self._lock:
                    self._open -= ended
                self.done += len(ended)
                self._free.release(len(ended))
                return time.monotonic()
            time.sleep(0.01)
        raise Stalled(f"{self._system.name}: {len(self._open)} workflows of {self._workload.name} do not end")

    def _submit(self) -> None:
        try:
            while True:
                self._free.acquire()
                if self._stopping.is_set():
                    return
                count = 1
                while count < self._workload.batch and self._free.acquire(blocking=False):
                    count += 1
                ids = self._system.submit(self._workload, count)
                with self._lock:
                    self._open.update(ids)
        except Exception as error:  # carried over to the thread that watches
            self._errors.append(error)


def _rates(
    workload: Workload,
    workflows: int,
    first: Snapshot,
    last: Snapshot,
    traffic: Mapping[str, Traffic],
    memory: dict[str, Memory],
) -> Rates:
    seconds = last.at - first.at
    steps = workflows * workload.steps
    moved = {name: each.bytes_received + each.bytes_sent for name, each in traffic.items()}
    return Rates(
        workflows=workflows,
        seconds=seconds,
        workflows_per_s=workflows / seconds,
        steps_per_s=steps / seconds,
        cpu_seconds_per_1000_steps={name: 1000 * (last.cpu[name] - first.cpu[name]) / steps for name in last.cpu},
        commits_per_step=(last.commits - first.commits) / steps,
        round_trips_per_step={name: each.round_trips / steps for name, each in traffic.items()},
        bytes_per_step={
            **{name: count / steps for name, count in moved.items()},
            "wal": (last.wal_bytes - first.wal_bytes) / steps,
        },
        memory=memory,
    )
