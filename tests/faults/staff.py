"""The product's processes and their supervisor: starts them again when they die and, where told to, says who died.

Each life of a worker has a name of its own, as `orchestrator dev` does it, so that expiring a dead one hits no other.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from contracts.errors import OrchestratorError, Unavailable
from orchestrator import launch
from shared_state.settings import Settings, child_environment

NURSERY_SECONDS = 30.0


@dataclass
class Member:
    """One process slot: `role` names what runs in it, `life` counts its starts. `pid` is null while it is down."""

    slot: str
    program: tuple[str, ...]
    settings: Settings
    through_exec: bool = False
    """Start it by `python -m` from nothing, as a person does, instead of forking it from the nursery."""
    launcher: tuple[str, ...] = ()
    """A module, with arguments, that starts the program; then it is started from nothing too."""
    environment: Mapping[str, str] = field(default_factory=dict)
    life: int = 0
    pid: int | None = None
    exit_code: int | None = None
    """As `subprocess` has it, of the last life that ended."""
    started_at: float = 0.0
    spared: bool = False
    """Whether `Scene.kill_some` leaves it alone."""
    wanted: bool = True
    """Whether it is started again when it ends."""

    @property
    def name(self) -> str:
        return f"{self.slot}.{self.life}"

    @property
    def is_worker(self) -> bool:
        return self.program[0] == "workers"


@dataclass(frozen=True)
class Kill:
    """A worker that was killed at `at` (Unix time). `seen`: a supervisor expired its leases at once."""

    worker: str
    at: float
    seen: bool


class Staff:
    """`expire` is what the supervisor does with the name of a dead worker. Started and stopped from the main thread."""

    def __init__(
        self, folder: Path, expire: Callable[[str], object], ablation: str | None = None, *, bare: bool = False
    ) -> None:
        self.members: dict[str, Member] = {}
        self.kills: list[Kill] = []
        self.starts = 0
        self.supervised = True
        """Whether deaths are seen: otherwise only lapsed leases tell of them."""
        self._folder = folder
        self._expire = expire
        self._by_pid: dict[int, Member] = {}
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._deaths: queue.SimpleQueue[tuple[Member, str, bool] | None] = queue.SimpleQueue()
        self._dead_names: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._closing = False
        # Descendants of a nursery die with it; the nursery dies with us.
        given = "--bare" if bare else ablation
        command = [sys.executable, "-m", "tests.faults.nursery", *([given] if given else [])]
        with (folder / "nursery.log").open("ab") as log:
            self._nursery = subprocess.Popen(
                launch.command(command, death_signal=signal.SIGKILL),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")},
                start_new_session=True,
            )
        self._ready = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"staff-{work.__name__}", daemon=True)
            for work in (self._listen, self._replace, self._tell)
        ]
        for thread in self._threads:
            thread.start()
        if not self._ready.wait(NURSERY_SECONDS):
            raise RuntimeError(f"the nursery does not start; see {folder / 'nursery.log'}")

    # --- what rows use

    def hire(self, member: Member) -> Member:
        with self._lock:
            self.members[member.slot] = member
            self._start(member)
        return member

    def workers(self) -> list[Member]:
        """Those that are up, in the order of their slots."""
        with self._lock:
            return [each for each in self.members.values() if each.is_worker and each.pid is not None]

    def kill(self, member: Member) -> bool:
        """kill -9. False when it is down already."""
        with self._lock:
            pid, name = member.pid, member.name
            if pid is None:
                return False
            kill = Kill(name, time.time(), self.supervised)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            if member.is_worker:
                self.kills.append(kill)
            return True

    def signal(self, member: Member, number: signal.Signals) -> bool:
        with self._lock:
            if member.pid is None:
                return False
            try:
                os.kill(member.pid, number)
            except ProcessLookupError:  # it has just died
                return False
            return True

    def dismiss(self, member: Member) -> None:
        """It is not started again."""
        member.wanted = False

    def recall(self, member: Member) -> None:
        """Start one that is down, and keep it up from now on."""
        with self._lock:
            member.wanted = True
            if member.pid is None:
                self._start(member)

    def wait_down(self, member: Member, seconds: float = 10.0) -> bool:
        with self._lock:
            return self._changed.wait_for(lambda: member.pid is None, seconds)

    def log(self, member: Member) -> Path:
        return self._folder / f"{member.slot}.log"

    def close(self) -> None:
        with self._lock:
            self._closing = True
        if self._nursery.stdin is not None:
            with suppress(OSError):
                self._nursery.stdin.close()  # ends everything it started
        with suppress(subprocess.TimeoutExpired):
            self._nursery.wait(10)
        self._nursery.kill()
        self._nursery.wait()
        self._deaths.put(None)
        self._dead_names.put(None)
        for thread in self._threads:
            thread.join(10)
        if self._nursery.stdout is not None:
            self._nursery.stdout.close()

    # --- its own threads

    def _start(self, member: Member) -> None:
        """With the lock held. The pid is known when this returns."""
        if self._closing or self._nursery.stdin is None:
            return
        member.life += 1
        own = member.settings
        if member.is_worker:
            own = own.model_copy(update={"worker_name": member.name})
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")}
        order = {
            "name": member.name,
            "program": (*member.launcher, *member.program),
            "environment": {**kept, **child_environment(own), **member.environment},
            "log": str(self.log(member)),
            "exec": member.through_exec or bool(member.launcher),
        }
        self._nursery.stdin.write(json.dumps(order).encode() + b"\n")
        self._nursery.stdin.flush()
        if not self._changed.wait_for(lambda: member.pid is not None or self._closing, NURSERY_SECONDS):
            raise RuntimeError(f"the nursery did not start {member.name}")
        self.starts += 1
        member.started_at = time.monotonic()

    def _listen(self) -> None:
        if self._nursery.stdout is None:
            return
        for line in self._nursery.stdout:
            said = json.loads(line)
            with self._lock:
                if "ready" in said:
                    self._ready.set()
                elif "pid" in said:
                    slot = said["name"].rpartition(".")[0]
                    member = self.members[slot]
                    member.pid = said["pid"]
                    self._by_pid[said["pid"]] = member
                elif (dead := self._by_pid.pop(said["ended"], None)) is not None:
                    dead.pid, dead.exit_code = None, said["code"]
                    self._deaths.put((dead, dead.name, self.supervised))
                self._changed.notify_all()

    def _replace(self) -> None:
        """The supervisor: every death is told of, if it is seen, and the process is started again."""
        while (death := self._deaths.get()) is not None:
            member, name, seen = death
            if seen and member.is_worker:
                self._dead_names.put(name)
            with self._lock:
                if member.wanted and member.pid is None and not self._closing:
                    self._start(member)

    def _tell(self) -> None:
        """Apart from the starting: Postgres may be away when a worker dies."""
        while (name := self._dead_names.get()) is not None:
            while not self._closing:
                try:
                    self._expire(name)
                    break
                except Unavailable:
                    time.sleep(0.1)
                except OrchestratorError:
                    break
