"""A server's folder and what a crash left in it: the lock, the secrets, the orphans."""

import errno
import fcntl
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from contracts.errors import Misconfigured


class DirectoryLock:
    """A folder used by one process at a time; the system frees it when that process ends, however it ends."""

    def __init__(self, directory: Path, purpose: str) -> None:
        self._directory = directory
        self._purpose = purpose
        self._file: int | None = None

    def take(self) -> None:
        """Make the folder where needed and lock it. Raises Misconfigured: not writable, disk full, or in use."""
        path = self._directory / "lock"
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unusable(self._directory, error) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(file, 20).decode("ascii", "replace").strip()
            os.close(file)
            raise Misconfigured(
                f"{self._directory}: in use by another {self._purpose} (process {owner or 'unknown'}); "
                "stop that one, or choose another --data-dir."
            ) from None
        os.ftruncate(file, 0)
        os.pwrite(file, str(os.getpid()).encode(), 0)
        self._file = file

    def held(self) -> bool:
        return self._file is not None

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def unusable(directory: Path, error: OSError) -> Misconfigured:
    """What to tell a person when a data directory cannot be written."""
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        file = next((path for path in (directory, *directory.parents) if path.exists()), directory)
        reason, remedy = f"{file} is not a directory", "move it away"
    else:
        reason = str(error.strerror)
        remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "make it writable"
    return Misconfigured(
        f"{directory}: the data directory cannot be used: {reason}; {remedy}, or choose another --data-dir."
    )


def stored_secret(path: Path) -> str:
    """The random password in `path` (mode 0600), made at first use. Raises Misconfigured when it cannot be kept."""
    try:
        if path.exists() and (known := path.read_text(encoding="ascii").strip()):
            return known
        fresh = secrets.token_urlsafe(24)
        write_private(path, fresh + "\n")
    except OSError as error:
        raise unusable(path.parent, error) from None
    return fresh


def write_private(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step, readable by its owner only."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w", encoding="utf-8") as stream:
        stream.write(text)
    draft.replace(path)


def free_port() -> int:
    """A TCP port nobody listens on at 127.0.0.1 right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(ready: Callable[[], bool], alive: Callable[[], bool], seconds: float) -> bool:
    """Poll until `ready`; False when `alive` turned false or time ran out."""
    deadline = time.monotonic() + seconds
    while alive() and time.monotonic() < deadline:
        if ready():
            return True
        time.sleep(0.02)
    return False


def stop_orphans(directory: Path, pid_file: Path, program: str) -> None:
    """End servers that a killed supervisor left in `directory`: found by their working directory, or the pid file."""
    for number, seconds in ((signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
        left = _processes_in(directory, pid_file, program)
        for pid in left:
            _signal(pid, number)
        if not left or wait_until(lambda: not _processes_in(directory, pid_file, program), lambda: True, seconds):
            return


def _processes_in(directory: Path, pid_file: Path, program: str) -> list[int]:
    if sys.platform == "linux":
        return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and _works_in(entry, directory, program)]
    try:
        pid = int(pid_file.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return []
    shown = subprocess.run(["/bin/ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True, check=False)
    return [pid] if program in shown.stdout else []


def _works_in(entry: str, directory: Path, program: str) -> bool:
    """Whether a live (not zombie) process of that program has `directory` as its working directory."""
    try:
        if os.readlink(f"/proc/{entry}/cwd") != str(directory):
            return False
        return program in Path(f"/proc/{entry}/cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:
        return False


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
