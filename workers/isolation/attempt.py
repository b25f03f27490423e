"""The worker's side of one attempt in a process: three descriptors, one loop, one verdict."""

import json
import math
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from pydantic import ValidationError

from contracts.context import Artifacts, Progress
from contracts.errors import OrchestratorError
from contracts.outcomes import OUTCOME, Outcome
from workers.agents.command import describe_status
from workers.agents.invoke import fail
from workers.agents.jsonable import NotStorable, check_storable, clean_text
from workers.isolation.frames import FRAME_LIMIT_BYTES, Frame, FrameInvalid, FrameTooLarge, Inbox, encode_frame
from workers.isolation.ran import LOG_TAIL_BYTES

_LOOK_SECONDS = 0.25
"""How often a cancellation is looked for."""
_ANSWERED_SECONDS = 1.0
"""How long a process may go on after it has given its answer."""
_KILL_SECONDS = 0.7
"""How long a zygote may take to say that it has killed."""


class Attempt:
    """`converse` runs until the process has ended; then `outcome` says what it came to.

    The first verdict counts: what the process answered, or why it was stopped.
    """

    def __init__(
        self,
        *,
        question: bytes,
        artifacts: Artifacts,
        progress: Progress,
        deadline: float,
        timeout_seconds: float,
        log_bytes: int,
        cancelled: threading.Event,
        closed: threading.Event,
    ) -> None:
        self.started = False
        self.refused = False
        """The zygote could not make a process of it."""
        self.broken = False
        """... and never will: its module cannot be imported."""
        self.orphaned = False
        """The zygote went away, or does not answer."""
        self.code_hash: str | None = None
        self.peak_memory_bytes: int | None = None
        self._importing = threading.Event()
        self._unsent = memoryview(question)
        self._inbox = Inbox()
        self._artifacts = artifacts
        self._progress = progress
        self._deadline = deadline
        self._timeout_seconds = timeout_seconds
        self._log_bytes = log_bytes
        self._cancelled = cancelled
        self._closed = closed
        self._verdict: Outcome | None = None
        self._stopping = False
        self._status: int | None = None
        self._ended = False
        self._printed = 0
        self._tail = b""
        self._poll = select.poll()
        self._channel, self._their_channel = socket.socketpair()
        self._lifeline, self._their_lifeline = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._log, self._their_log = os.pipe()

    def __enter__(self) -> Self:
        self._channel.setblocking(False)
        self._lifeline.setblocking(False)
        os.set_blocking(self._log, False)
        return self

    def __exit__(self, *_: object) -> None:
        self.descriptors_sent()
        for each in (self._channel, self._lifeline):
            each.close()
        os.close(self._log)

    @property
    def descriptors(self) -> tuple[int, int, int]:
        """What the process gets: its channel, its log, its lifeline."""
        return self._their_channel.fileno(), self._their_log, self._their_lifeline.fileno()

    def descriptors_sent(self) -> None:
        """Close our copies, so that the ends of theirs can be seen."""
        self._their_channel.close()
        self._their_lifeline.close()
        if self._their_log >= 0:
            os.close(self._their_log)
            self._their_log = -1

    def converse(self, importing: threading.Event) -> None:
        """Serve the process until it has ended and nothing of it runs. Clears `importing` when it has started."""
        self._importing = importing
        handlers: dict[int, Callable[[], None]] = {
            self._lifeline.fileno(): self._hear_zygote,
            self._log: self._read_log,
            self._channel.fileno(): self._serve_channel,
        }
        for number in handlers:
            self._poll.register(number, select.POLLIN)
        self._serve_channel()
        while not self._ended:
            self._check_limits()
            if self._ended:
                break
            wait = min(_LOOK_SECONDS, max(0.0, self._deadline - time.monotonic()))
            ready = [number for number, _ in self._poll.poll(math.ceil(wait * 1000))]
            # What was said before the end is heard before the end.
            for number in sorted(ready, key=lambda number: number == self._lifeline.fileno()):
                handlers[number]()
        self._read_log()
        if self._verdict is None:
            self._serve_channel()

    def outcome(self) -> Outcome:
        if self._verdict is not None:
            return self._verdict
        if self._closed.is_set():
            return fail("worker.stopped", "the worker was stopped before the attempt ended")
        detail = self.log_tail() or None
        if self._status is None:
            return fail("agent.crashed", "the process that the agent was started from ended", detail)
        return fail("agent.crashed", f"the agent's process {describe_status(self._status)}", detail)

    def log_tail(self) -> str:
        return clean_text(self._tail.decode(errors="replace"), LOG_TAIL_BYTES)

    def add_log(self, data: bytes) -> None:
        self._tail = (self._tail + data[-LOG_TAIL_BYTES:])[-LOG_TAIL_BYTES:]

    def _check_limits(self) -> None:
        now = time.monotonic()
        if self._cancelled.is_set():
            self._stop(fail("task.cancelled", "the task was cancelled"))
        if now < self._deadline:
            return
        if self._stopping:
            # The zygote was asked to kill and did not say that it has.
            self.orphaned = True
            self._ended = True
        elif self.started:
            self._stop(fail("bound.time", f"the attempt ran longer than {self._timeout_seconds:g} s"))
        else:
            text = f"the agent's module was still being imported after {self._timeout_seconds:g} s"
            self._stop(fail("bound.time", text))

    def _stop(self, verdict: Outcome) -> None:
        """Have the process killed; its report follows. One that never started is just not waited for."""
        if self._verdict is None:
            self._verdict = verdict
        if self._stopping:
            return
        self._stopping = True
        self._deadline = time.monotonic() + _KILL_SECONDS
        with suppress(KeyError):
            self._poll.unregister(self._channel)
        if not self.started:
            self._ended = True
            return
        with suppress(OSError):
            self._lifeline.send(b"kill")

    def _hear_zygote(self) -> None:
        while not self._ended:
            try:
                data = self._lifeline.recv(1 << 17)
            except BlockingIOError:
                return
            except ConnectionResetError:
                # Our wish to kill crossed its report: the report comes after this error.
                continue
            if not data:
                self.orphaned = True
                self._ended = True
                return
            self._take_report(json.loads(data))

    def _take_report(self, report: dict[str, Any]) -> None:
        match report["type"]:
            case "started":
                self.started = True
                self._importing.clear()
                self.code_hash = report["code_hash"]
            case "refused":
                self.refused = True
                self.broken = report["broken"]
                self._verdict = self._verdict or fail(report["code"], report["text"], report["detail"])
                self._ended = True
            case "ended":
                self._status = report["status"]
                self.peak_memory_bytes = report["peak_memory_bytes"]
                self._ended = True

    def _read_log(self) -> None:
        """One helping of what the process printed; past the limit it is stopped."""
        try:
            data = os.read(self._log, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            with suppress(KeyError):
                self._poll.unregister(self._log)
            return
        self.add_log(data)
        self._count(len(data))

    def _count(self, size: int) -> None:
        self._printed += size
        if self._printed > self._log_bytes and not self._ended:
            self._stop(fail("bound.output", f"the agent printed more than {self._log_bytes} bytes"))
            with suppress(KeyError):
                self._poll.unregister(self._log)

    def _serve_channel(self) -> None:
        """Send what is unsent, then take in and answer. Nothing is read while an answer waits to be taken."""
        try:
            data = b""
            while True:
                self._inbox.add(data)
                while self._send() and self._verdict is None and (frame := self._inbox.take()) is not None:
                    self._answer(frame)
                if self._unsent or self._verdict is not None:
                    return
                data = self._channel.recv(1 << 18)
                if not data:
                    break
        except BlockingIOError:
            return
        except OSError:
            pass
        except FrameTooLarge as error:
            self._stop(fail("bound.output", f"the agent sent more than {FRAME_LIMIT_BYTES} bytes at once ({error})"))
            return
        except FrameInvalid as error:
            self._stop(fail("agent.protocol", f"the agent's process sent what is no frame: {error}"))
            return
        # The other end is closed: the process is ending, or goes on without a way to answer until its time is up.
        with suppress(KeyError):
            self._poll.unregister(self._channel)

    def _send(self) -> bool:
        """True when nothing is left to send."""
        try:
            while self._unsent:
                self._unsent = self._unsent[self._channel.send(self._unsent[: 1 << 18]) :]
        except BlockingIOError:
            with suppress(FileNotFoundError):
                self._poll.modify(self._channel, select.POLLOUT)
            return False
        except OSError:
            self._unsent = self._unsent[:0]
        with suppress(FileNotFoundError):
            self._poll.modify(self._channel, select.POLLIN)
        return True

    def _answer(self, frame: Frame) -> None:
        match frame.type:
            case "outcome":
                self._verdict = _read_outcome(frame)
                # Nobody reads it any more: left in the poll, its end would wake us without end.
                with suppress(KeyError):
                    self._poll.unregister(self._channel)
                hashed = frame.head.get("code_hash")
                self.code_hash = self.code_hash or (hashed if isinstance(hashed, str) else None)
                self._deadline = min(self._deadline, time.monotonic() + _ANSWERED_SECONDS)
            case "progress":
                self._count(frame.size_bytes)
                self._pass_on(frame)
            case "put" | "get":
                self._unsent = memoryview(self._do(frame))
            case _:
                raise FrameInvalid(f"of an unknown type {frame.type[:50]!r}")

    def _pass_on(self, frame: Frame) -> None:
        text, fraction = frame.head.get("text"), frame.head.get("fraction")
        # Progress that cannot be recorded is lost: it must not cost the attempt.
        with suppress(Exception):
            self._progress(clean_text(str(text), 2000), float(fraction) if fraction is not None else None)

    def _do(self, frame: Frame) -> bytes:
        try:
            if frame.type == "put":
                ref = self._artifacts.put(frame.body, clean_text(str(frame.head.get("media_type")), 200))
                return encode_frame("stored", {"ref": ref})
            return encode_frame("bytes", {}, self._artifacts.get(str(frame.head.get("sha256"))))
        except OrchestratorError as error:
            return encode_frame("refused", {"code": error.code, "text": error.text})
        except FrameTooLarge as error:
            text = f"the artifact is too large to be handed over ({error}; at most {FRAME_LIMIT_BYTES})"
            return encode_frame("refused", {"code": "invalid", "text": text})
        except Exception as error:
            # The edge to the store: whatever is wrong with it is not for the agent to read.
            text = f"artifacts cannot be reached ({type(error).__name__})"
            return encode_frame("refused", {"code": "unavailable", "text": text})


def _read_outcome(frame: Frame) -> Outcome:
    try:
        outcome = OUTCOME.validate_python(frame.head.get("outcome"))
        if frame.has_nul:
            check_storable(outcome.model_dump(mode="json"))
    except ValidationError:
        return fail("agent.protocol", "the agent's process answered with something that is no outcome")
    except NotStorable as error:
        return fail("agent.output", str(error))
    return outcome
