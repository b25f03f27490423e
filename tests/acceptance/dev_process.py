"""`orchestrator dev` as a person starts it: a process of its own, known by what it prints and by its dev.json."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from orchestrator.client import Client

START_SECONDS = 60.0


class Dev:
    """Started by `start`; whatever happens, nothing of it runs after the `with`."""

    def __init__(self, data_dir: Path, *arguments: str, output: str = "dev.out", **settings: str) -> None:
        """`settings` are given to it as environment variables, ORCHESTRATOR_ and the name."""
        self.data_dir = data_dir
        self.arguments = arguments
        self._settings = {f"ORCHESTRATOR_{name.upper()}": value for name, value in settings.items()}
        self._output = data_dir.parent / output
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop()

    def start(self) -> None:
        """Return once it says that it runs."""
        self.launch()
        until(lambda: "orchestrator is running" in self.output() or self.process.poll() is not None, START_SECONDS)
        assert self.process.poll() is None, self.output()

    def launch(self) -> None:
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment(),
                cwd=self.data_dir.parent,
            )

    def command(self) -> list[str]:
        return [sys.executable, "-m", "orchestrator", "dev", "--data-dir", str(self.data_dir), *self.arguments]

    def environment(self) -> dict[str, str]:
        """Ours without our settings."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")}
        return {**kept, **self._settings}

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def output(self) -> str:
        return self._output.read_text(encoding="utf-8")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.data_dir / "dev.json").read_text(encoding="utf-8"))
        return found

    def part(self, name: str) -> dict[str, Any]:
        return next((part for part in self.record()["parts"] if part["name"] == name), {})

    def client(self) -> Client:
        record = self.record()
        return Client(record["url"], record["key"])

    def kill(self, name: str) -> None:
        """SIGKILL a part and wait until it was started again."""
        pid = self.part(name)["pid"]
        os.kill(pid, signal.SIGKILL)
        until(lambda: self.part(name).get("pid") not in (None, pid))

    def descendants(self) -> set[int]:
        """Every process below the supervisor, whoever started it."""
        children: dict[int, list[int]] = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit() and (parent := _parent(int(entry))) is not None:
                children.setdefault(parent, []).append(int(entry))
        found: set[int] = set()
        waiting = [self.process.pid]
        while waiting:
            below = children.get(waiting.pop(), [])
            found.update(below)
            waiting.extend(below)
        return found


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def running(pids: set[int]) -> set[int]:
    """Those that are processes still, and not zombies."""
    return {pid for pid in pids if _parent(pid) is not None}


def _parent(pid: int) -> int | None:
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return None if state == "Z" else int(parent)
