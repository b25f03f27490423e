"""The worker's side of its zygotes: one for each agent module and version of its source, started when first needed."""

import array
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from contracts.errors import Unavailable
from workers.agents.source import Fingerprint, find_source, take_fingerprint
from workers.isolation import linux
from workers.isolation.ran import LOG_TAIL_BYTES

_IDLE_LIMIT = 16
_SEND_SECONDS = 5.0
_END_SECONDS = 1.0
_BURIAL_SECONDS = 0.7


class Zygote:
    """One zygote process. `module` is null for the one that runs command agents."""

    def __init__(self, module: str | None, fingerprint: Fingerprint) -> None:
        self.module = module
        self.fingerprint = fingerprint
        self.users = 0
        self.used_at = time.monotonic()
        self.retired = False
        self.importing = threading.Event()
        self.importing.set()
        """Set until it has forked its first attempt: what is asked of it before may never be heard."""
        self._ending = threading.Lock()
        self._marker = f"AGENT_ZYGOTE={secrets.token_hex(16)}"
        self._output = os.memfd_create("agent-import")
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        alive, self._alive = os.pipe()
        try:
            self._process = self._launch(theirs.fileno(), alive)
        except OSError as error:
            self._control.close()
            os.close(self._alive)
            os.close(self._output)
            raise Unavailable(f"cannot start a process for agents: {error.strerror}") from error
        finally:
            theirs.close()
            os.close(alive)
        self._control.settimeout(_SEND_SECONDS)

    def send(self, call: str | None, memory_mb: int, descriptors: tuple[int, int, int]) -> None:
        """Hand over an attempt: its channel, log and lifeline. Raises `OSError` when the zygote is gone."""
        request = json.dumps({"call": call, "memory_mb": memory_mb}).encode()
        self._control.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])

    def output_tail(self) -> bytes:
        """The end of what the import printed; empty once it went well."""
        with self._ending:
            if self._control.fileno() < 0:
                return b""
            size = os.fstat(self._output).st_size
            return os.pread(self._output, LOG_TAIL_BYTES, max(0, size - LOG_TAIL_BYTES))

    def end(self, *, at_once: bool) -> None:
        """Stop it and everything it started. Safe to call twice; the second caller waits for the first."""
        with self._ending:
            if self._control.fileno() < 0:
                return
            self._control.close()
            if at_once:
                self._process.kill()
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._process.returncode != 0:
                self._bury()
            os.close(self._alive)
            os.close(self._output)

    def _bury(self) -> None:
        """It could not clean up after itself: kill what carries its mark, until nothing does."""
        deadline = time.monotonic() + _BURIAL_SECONDS
        while linux.kill_marked(self._marker) and time.monotonic() < deadline:
            time.sleep(0.005)

    def _launch(self, control: int, alive: int) -> subprocess.Popen[bytes]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ORCHESTRATOR_")}
        # Children get the worker's import path, but a command that is another Python gets its own.
        environment["AGENT_PYTHONPATH"] = environment.get("PYTHONPATH", "")
        environment["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
        name, _, value = self._marker.partition("=")
        environment[name] = value
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "workers.isolation.zygote", self.module or "-", str(control), str(alive)],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            env=environment,
            pass_fds=(control, alive),
            start_new_session=True,
        )


class Zygotes:
    """All zygotes of one runner. Taking one counts its users; edited code retires the one that has the old."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current: dict[str | None, Zygote] = {}
        self._all: set[Zygote] = set()
        self._sources: dict[str, tuple[Path, ...]] = {}
        self._closed = False

    def take(self, module: str | None) -> Zygote:
        """A zygote for the module as it is on disk now. Raises `Unavailable` when none can be started.

        It may have died meanwhile: whoever cannot send to it retires it and takes another.
        """
        with self._lock:
            if self._closed:
                raise Unavailable("the worker is stopping")
            fingerprint = self._fingerprint(module)
            zygote = self._current.get(module)
            if zygote is None or zygote.fingerprint != fingerprint:
                if zygote is not None:
                    self._drop(zygote)
                self._drop_idle()
                zygote = Zygote(module, fingerprint)
                self._current[module] = zygote
                self._all.add(zygote)
            zygote.users += 1
            zygote.used_at = time.monotonic()
        self._end_unused()
        return zygote

    def give_back(self, zygote: Zygote) -> None:
        with self._lock:
            zygote.users -= 1
        self._end_unused()

    def retire(self, zygote: Zygote) -> None:
        """No new attempts for this one; it ends with the last it has."""
        with self._lock:
            self._drop(zygote)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            zygotes = list(self._all)
            self._current.clear()
            self._all.clear()
        for zygote in zygotes:
            zygote.end(at_once=zygote.importing.is_set())

    def _fingerprint(self, module: str | None) -> Fingerprint:
        if module is None:
            return ()
        if not self._sources.get(module):
            self._sources[module] = find_source(module)
        return take_fingerprint(self._sources[module])

    def _drop(self, zygote: Zygote) -> None:
        zygote.retired = True
        if self._current.get(zygote.module) is zygote:
            del self._current[zygote.module]
            # Files may have come or gone with the edit.
            self._sources.pop(zygote.module or "", None)

    def _drop_idle(self) -> None:
        idle = sorted((each for each in self._current.values() if each.users == 0), key=lambda each: each.used_at)
        for zygote in idle[: max(0, len(self._current) - _IDLE_LIMIT + 1)]:
            self._drop(zygote)

    def _end_unused(self) -> None:
        with self._lock:
            unused = [each for each in self._all if each.retired and each.users == 0]
            self._all.difference_update(unused)
        for zygote in unused:
            zygote.end(at_once=zygote.importing.is_set())
