"""One child process: its output goes to a rotating log, it dies with us, and it is stopped in steps."""

import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator import launch
from orchestrator.logs import RotatingLog, pump

STEP_SECONDS = 10.0
"""How long each signal of a stop may take before the next, harder one."""


class Child:
    """Start it from the main thread (see `launch`); it may be started again after it ended."""

    def __init__(self, log: RotatingLog) -> None:
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._pump: threading.Thread | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """Null unless it runs."""
        return self._process.pid if self._process is not None and self.alive() else None

    @property
    def exit_code(self) -> int | None:
        """As `subprocess` has it (negative: the signal that killed it); null before the first end."""
        return None if self._process is None else self._process.poll()

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(
        self,
        program: Sequence[str],
        *,
        environment: Mapping[str, str],
        directory: Path,
        death_signal: signal.Signals = signal.SIGKILL,
        identity: launch.Identity | None = None,
    ) -> None:
        self._log_start = self.log.size()
        self._process = subprocess.Popen(
            launch.command(program, death_signal=death_signal, identity=identity),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=directory,
            start_new_session=True,  # Ctrl-C belongs to the supervisor: it stops the parts in order
        )
        if self._process.stdout is not None:
            self._pump = pump(self._process.stdout, self.log)

    def said(self) -> str:
        """The end of what it wrote since its last start."""
        return self.log.tail(since=self._log_start)

    def send(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within that time, its output written to the log."""
        if self._process is None:
            return True
        try:
            self._process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            return False
        self.settle()
        return True

    def settle(self) -> None:
        """After its end: wait until the log has its last words. Descendants may keep the pipe open; not for long."""
        if self._pump is not None:
            self._pump.join(1.0)

    def stop(self, signals: Sequence[signal.Signals], step_seconds: float = STEP_SECONDS) -> None:
        """Send each signal in turn until the process has ended, then SIGKILL."""
        for number in (*signals, signal.SIGKILL):
            self.send(number)
            if self.wait(step_seconds):
                return


def finish(children: Sequence[Child], seconds: float, hurry: threading.Event) -> None:
    """SIGTERM to all at once; SIGKILL to those that still run after `seconds`, or as soon as `hurry` is set."""
    deadline = time.monotonic() + seconds
    for child in children:
        child.send(signal.SIGTERM)
    for child in children:
        while not hurry.is_set() and time.monotonic() < deadline and not child.wait(0.05):
            continue
    for child in children:
        child.send(signal.SIGKILL)
        child.wait(STEP_SECONDS)
