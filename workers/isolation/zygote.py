"""The process that imports an agent's module once and forks one child per attempt from it.

Runs as `python -m workers.isolation.zygote MODULE CONTROL ALIVE` (MODULE is `-` for command agents; the others are
descriptors), its output going to a file in memory until the module is imported. It is single-threaded, holds no
connection to anything, and ends, killing everything it started, when the worker closes CONTROL.

Over CONTROL (sequenced packets) come requests `{"call": ..., "memory_mb": ...}` with three descriptors each: the
attempt's channel, its log, and its lifeline. Over the lifeline the zygote says `started {pid, code_hash}` or
`refused {code, text, detail, broken}`, then `ended {status, peak_memory_bytes}`; anything said to it there, or
closing it, kills the attempt. After an attempt ends nothing of it runs on: its group is killed, and so is whatever
left the group, because the zygote adopts all orphans. (A living attempt adopts its own.)
"""

import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from workers.agents.load import Loaded, NotImportable, import_module, load
from workers.isolation import linux
from workers.isolation.child import EXIT_UNANSWERED, run_child

IMPORT_OUTPUT_BYTES = 16_000_000
_REQUEST_BYTES = 8192
_SWEEP_SECONDS = 0.5
"""How long an ended attempt's report waits for what it left behind to be gone."""


@dataclass
class Attempt:
    pid: int
    lifeline: socket.socket


@dataclass
class Ended:
    lifeline: socket.socket
    report: bytes
    at: float = field(default_factory=time.monotonic)


def main() -> None:
    module, control, alive = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    pythonpath = os.environ.pop("AGENT_PYTHONPATH", "")
    os.environ.pop("PYTHONPATH", None)
    if pythonpath:
        os.environ["PYTHONPATH"] = pythonpath
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    linux.adopt_orphans()
    _die_with_worker(alive)
    broken = None if module == "-" else _import(module)
    _live_with_worker(alive)
    Zygote(socket.socket(fileno=control), broken).serve()


def _die_with_worker(alive: int) -> None:
    """While a module is being imported nobody reads CONTROL: let the kernel end us when the worker is gone.

    SIGIO is raised when the other end of the pipe is closed, and ends the process unless somebody handles it.
    """
    fcntl.fcntl(alive, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(alive, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    if select.select([alive], [], [], 0)[0]:
        os._exit(0)


def _live_with_worker(alive: int) -> None:
    fcntl.fcntl(alive, fcntl.F_SETFL, os.O_NONBLOCK)
    os.close(alive)


def _import(module: str) -> NotImportable | None:
    """Import with a limit on what is printed; once that went well, nobody wants to read it, nor what comes later."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (IMPORT_OUTPUT_BYTES, limits[1]))
    broken = None
    try:
        import_module(module)
    except NotImportable as error:
        broken = error
    with suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    if broken is None:
        with suppress(OSError):
            os.ftruncate(1, 0)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    return broken


class Zygote:
    """The loop: requests in, children out, nothing left behind."""

    def __init__(self, control: socket.socket, broken: NotImportable | None) -> None:
        self._control = control
        self._broken = broken
        self._loaded: dict[str, Loaded] = {}
        self._attempts: dict[int, Attempt] = {}
        self._ended: list[Ended] = []
        self._spared = linux.list_children()
        """What the module itself started when it was imported."""
        self._restless = False
        self._woken, self._waker = socket.socketpair()
        self._poll = select.epoll()

    def serve(self) -> None:
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        signal.signal(signal.SIGCHLD, _wake_up)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for each in (self._control, self._woken):
            self._poll.register(each, select.EPOLLIN)
        # What was imported is never garbage: the children need not copy its pages to find that out.
        gc.collect()
        gc.freeze()
        while True:
            for number, _ in self._poll.poll(0.05 if self._restless else None):
                if number == self._control.fileno():
                    self._accept()
                elif number == self._woken.fileno():
                    with suppress(BlockingIOError):
                        self._woken.recv(4096)
                else:
                    self._kill_owner(number)
            self._reap()

    def _accept(self) -> None:
        data, numbers, _, _ = socket.recv_fds(self._control, _REQUEST_BYTES, 3)
        if not data:
            self._end()
        channel, log, lifeline = (socket.socket(fileno=numbers[0]), numbers[1], socket.socket(fileno=numbers[2]))
        lifeline.setblocking(False)
        try:
            if not _is_closed(lifeline):
                self._start(json.loads(data), channel, log, lifeline)
        finally:
            channel.close()
            os.close(log)

    def _start(self, request: Mapping[str, Any], channel: socket.socket, log: int, lifeline: socket.socket) -> None:
        try:
            loaded = self._load(request["call"])
            pid = self._fork(channel, log, lifeline, request["memory_mb"] << 20, loaded)
        except NotImportable as error:
            self._refuse(lifeline, error.code, error.text, error.detail)
            return
        except OSError as error:
            self._refuse(lifeline, "internal", f"this machine cannot start another process: {error.strerror}", None)
            return
        self._attempts[pid] = Attempt(pid, lifeline)
        self._poll.register(lifeline, select.EPOLLIN)
        _say(lifeline, {"type": "started", "pid": pid, "code_hash": loaded.code_hash if loaded else None})

    def _refuse(self, lifeline: socket.socket, code: str, text: str, detail: str | None) -> None:
        broken = self._broken is not None
        _say(lifeline, {"type": "refused", "code": code, "text": text, "detail": detail, "broken": broken})
        lifeline.close()

    def _load(self, call: str | None) -> Loaded | None:
        if self._broken is not None:
            raise self._broken
        if call is None:
            return None
        if call not in self._loaded:
            self._loaded[call] = load(call)
        return self._loaded[call]

    def _fork(
        self, channel: socket.socket, log: int, lifeline: socket.socket, memory_bytes: int, loaded: Loaded | None
    ) -> int:
        own = os.getpid()
        pid = os.fork()
        if pid != 0:
            return pid
        try:
            self._let_go()
            lifeline.close()
            run_child(channel, log, own, memory_bytes, loaded)
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            os._exit(EXIT_UNANSWERED)

    def _let_go(self) -> None:
        """In the child: forget everything that is the zygote's, other attempts' lifelines above all."""
        signal.set_wakeup_fd(-1)
        self._poll.close()
        for each in (self._control, self._woken, self._waker):
            each.close()
        for attempt in self._attempts.values():
            attempt.lifeline.close()
        for ended in self._ended:
            ended.lifeline.close()

    def _kill_owner(self, number: int) -> None:
        for attempt in self._attempts.values():
            if attempt.lifeline.fileno() == number:
                self._poll.unregister(number)
                linux.kill_group(attempt.pid)
                return

    def _reap(self) -> None:
        reaped = False
        while True:
            try:
                # Looked at first and reaped later: until then its group's number cannot be anyone else's.
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                break
            if found is None:
                break
            attempt = self._attempts.pop(found.si_pid, None)
            if attempt is not None:
                # At once, where the sweep would go generation by generation and never catch up with a fork bomb.
                linux.kill_group(attempt.pid)
            _, status, usage = os.wait4(found.si_pid, 0)
            reaped = True
            self._spared.discard(found.si_pid)
            if attempt is not None:
                with suppress(OSError, ValueError):
                    self._poll.unregister(attempt.lifeline)
                report = {"type": "ended", "status": os.waitstatus_to_exitcode(status)}
                report["peak_memory_bytes"] = usage.ru_maxrss * 1024
                self._ended.append(Ended(attempt.lifeline, json.dumps(report).encode()))
        if reaped or self._restless:
            self._sweep()

    def _sweep(self) -> None:
        """Kill orphans; report the ended attempts once there are none (or what there is does not die)."""
        orphans = linux.list_children() - self._attempts.keys() - self._spared
        for pid in orphans:
            linux.kill(pid)
        self._restless = bool(orphans)
        now = time.monotonic()
        kept = []
        for ended in self._ended:
            if orphans and now - ended.at < _SWEEP_SECONDS:
                kept.append(ended)
                continue
            with suppress(OSError):
                ended.lifeline.send(ended.report)
            ended.lifeline.close()
        self._ended = kept

    def _end(self) -> None:
        for pid in self._attempts:
            linux.kill_group(pid)
        deadline = time.monotonic() + _SWEEP_SECONDS
        while time.monotonic() < deadline and (children := linux.list_children()):
            for pid in children:
                linux.kill(pid)
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
        os._exit(0)


def _wake_up(number: int, frame: FrameType | None) -> None:
    """A handler must exist for the signal to be written to the wake-up descriptor."""


def _is_closed(lifeline: socket.socket) -> bool:
    try:
        lifeline.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _say(lifeline: socket.socket, message: Mapping[str, Any]) -> None:
    # Whoever asked may have given up meanwhile.
    with suppress(OSError):
        lifeline.send(json.dumps(message).encode())


if __name__ == "__main__":
    main()
