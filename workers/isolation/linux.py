"""The few Linux calls that keep processes from outliving their attempt. Process isolation needs Linux."""

import ctypes
import os
import signal
from contextlib import suppress
from functools import cache
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """The kernel kills this process when the one that forked it ends. Survives exec, is not inherited by fork."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Descendants whose parent ends become children of this process, not of init. Not inherited by fork."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def list_children() -> set[int]:
    """The process ids of this (single-threaded) process's children, zombies included."""
    own = os.getpid()
    try:
        return {int(pid) for pid in Path(f"/proc/{own}/task/{own}/children").read_text().split()}
    except OSError:
        return {pid for pid in _list_processes() if _parent_of(pid) == own}


def data_bytes() -> int:
    """How much private writable memory this process has mapped: what `RLIMIT_DATA` counts."""
    return int(Path("/proc/self/statm").read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")


def kill(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def kill_group(leader: int) -> None:
    """Kill a process and its group. The leader by itself too: it may not have made its group yet."""
    kill(leader)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def kill_marked(marker: str) -> int:
    """Kill every process that was started with this `NAME=value` in its environment; how many there were."""
    found = [pid for pid in _list_processes() if pid != os.getpid() and _is_marked(pid, marker.encode())]
    for pid in found:
        kill(pid)
    return len(found)


def _is_marked(pid: int, marker: bytes) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return marker in environment.split(b"\0") and not status.rpartition(b")")[2].startswith(b" Z")


def _parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _list_processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _prctl(option: int, value: int) -> None:
    if _libc().prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
