"""The parts of a dev server: what each is called, how it is started, and who it is for others."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypedDict

from orchestrator.child import Child
from orchestrator.dev.ports import HOST, PortOfPart
from orchestrator.dev.restarts import Restarts
from orchestrator.logs import RotatingLog


class Shown(TypedDict):
    """A part in dev.json."""

    name: str
    pid: int | None
    port: int | None
    metrics: str | None
    command: str
    worker: str | None
    log: str
    restarts: int


class Server(Protocol):
    """An embedded server."""

    port: int

    @property
    def pid(self) -> int | None: ...
    def alive(self) -> bool: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...


class Part(Protocol):
    """Something the supervisor keeps alive."""

    name: str
    restarts: Restarts
    started_at: float

    @property
    def pid(self) -> int | None: ...
    def alive(self) -> bool: ...
    def start(self) -> None: ...
    def ending(self) -> str: ...
    def shown(self) -> Shown: ...


@dataclass
class ServerPart:
    """Postgres or Redis."""

    name: str
    server: Server
    log: Path
    restarts: Restarts = field(default_factory=Restarts)
    started_at: float = 0.0

    @property
    def pid(self) -> int | None:
        return self.server.pid

    def alive(self) -> bool:
        return self.server.alive()

    def start(self) -> None:
        """Raises as the server's own `start`."""
        self.started_at = time.monotonic()
        self.server.start()

    def ending(self) -> str:
        return "ended"

    def shown(self) -> Shown:
        return _shown(self, self.name, self.server.port, None, self.log)


@dataclass
class ProcessPart:
    """One of our own processes. `environment(name of the worker)` is computed at each start: each life has its name."""

    name: str
    command: Sequence[str]
    environment: Callable[[str], Mapping[str, str]]
    directory: Path
    log: RotatingLog
    port: Callable[[], int | None] = lambda: None
    worker_prefix: str | None = None
    """What the worker's name begins with; null for what is not a worker."""
    metrics: PortOfPart | None = None
    """Where it tells of itself."""
    restarts: Restarts = field(default_factory=Restarts)
    started_at: float = 0.0

    def __post_init__(self) -> None:
        self.child = Child(self.log)
        self._lives = 0

    @property
    def worker(self) -> str | None:
        """The name under which it holds leases: new for each life, so that expiring a dead one hits no other."""
        return None if self.worker_prefix is None else f"{self.worker_prefix}.{self._lives}"

    @property
    def pid(self) -> int | None:
        return self.child.pid

    def alive(self) -> bool:
        return self.child.alive()

    def start(self) -> None:
        self._lives += 1
        self.started_at = time.monotonic()
        self.child.start(self.command, environment=self.environment(self.worker or ""), directory=self.directory)

    def ending(self) -> str:
        """How it ended, for people."""
        code = self.child.exit_code
        if code is None:
            return "runs"
        return f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"

    def shown(self) -> Shown:
        url = None if self.metrics is None else f"http://{HOST}:{self.metrics.number}/metrics"
        return {**_shown(self, " ".join(self.command), self.port(), self.worker, self.log.path), "metrics": url}


def _shown(part: Part, command: str, port: int | None, worker: str | None, log: Path) -> Shown:
    return {
        "name": part.name,
        "pid": part.pid,
        "port": port,
        "metrics": None,
        "command": command,
        "worker": worker,
        "log": str(log),
        "restarts": part.restarts.count,
    }
