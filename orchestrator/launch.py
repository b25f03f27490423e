"""Start a program so that it cannot outlive who started it; as root, under an ordinary identity where asked.

Run by its path in a bare interpreter (`command` builds the line), it arranges the new process and then replaces itself:
the process id stays the one the supervisor knows. Linux tells the program of its parent's death; elsewhere the next
start cleans up. The identity is an existing unprivileged account, taken on in one of two ways, so that servers that
refuse root run without any account being added:

    namespace   a user namespace in which root's files belong to that account; nothing on disk changes
    drop        really becoming it, where namespaces are forbidden (containers); file access by root's rights is kept
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import Literal, NamedTuple

Means = Literal["namespace", "drop"]

REFUSED = 97
"""Exit status when the identity could not be taken on; the reason is on standard error."""

_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 1, 8, 47, 2
_CAPABILITY_VERSION_3, _CAP_DAC_OVERRIDE = 0x20080522, 1


class Identity(NamedTuple):
    means: Means
    uid: int
    gid: int


def command(
    program: Sequence[str], *, death_signal: signal.Signals = signal.SIGKILL, identity: Identity | None = None
) -> list[str]:
    """The line to start: `program` gets `death_signal` when the calling *thread* ends, so call from the main one."""
    means = f"{identity.means}:{identity.uid}:{identity.gid}" if identity else "same"
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(death_signal)), means, *program]


def main(arguments: Sequence[str]) -> None:
    parent, death_signal, means, *program = arguments
    if means != "same":
        try:
            _take_on(means)
        except OSError as error:
            sys.stderr.write(f"cannot become an ordinary user by {means}: {error}\n")
            sys.exit(REFUSED)
    if sys.platform == "linux":
        _libc("prctl", _PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != int(parent):  # it died before we asked to be told
            sys.exit(REFUSED)
    os.execvp(program[0], program)


def _take_on(text: str) -> None:
    means, uid, gid = text.split(":")
    if means == "namespace":
        _enter_namespace(int(uid), int(gid))
    else:
        _drop_to(int(uid), int(gid))


def _enter_namespace(uid: int, gid: int) -> None:
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    _libc("unshare", _CLONE_NEWUSER)
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {outer_uid} 1"),
        ("gid_map", f"{gid} {outer_gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(line)


def _drop_to(uid: int, gid: int) -> None:
    """Become the account, but keep reading what root may read: the checkout may lie in a folder closed to others."""
    _libc("prctl", _PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    kept = 1 << _CAP_DAC_OVERRIDE
    sets = (ctypes.c_uint32 * 6)(kept, kept, kept, 0, 0, 0)
    _libc("capset", header, sets)
    _libc("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0)


def _libc(name: str, *arguments: object) -> None:
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    main(sys.argv[1:])
