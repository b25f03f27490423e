"""One attempt in its own process, forked from a zygote: set up, run the agent, answer, end."""

import faulthandler
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import NoReturn

from contracts.assignments import Assignment
from contracts.context import ArtifactRef
from contracts.errors import InvalidInput, NotFound, OrchestratorError, Unavailable
from contracts.outcomes import Outcome
from workers.agents.command import hash_command, run_command
from workers.agents.invoke import fail, invoke, make_context
from workers.agents.load import Loaded
from workers.isolation import linux
from workers.isolation.frames import FRAME_LIMIT_BYTES, Frame, FrameTooLarge, encode_frame, receive_frame

EXIT_UNANSWERED = 70
"""The child ended without being able to hand over its answer."""
_SPARE_BYTES = 64 * 1024 * 1024
"""Memory beyond the agent's limit that is kept for handing over the answer."""
_PROGRESS_SECONDS = 0.05


def run_child(channel: socket.socket, log: int, zygote: int, memory_bytes: int, loaded: Loaded | None) -> NoReturn:
    """The body of the forked process. `loaded` is null for a command agent, whose command comes with the assignment."""
    own = os.getpid()
    _settle_in(log, zygote)
    limit = linux.data_bytes() + memory_bytes
    frame = receive_frame(channel)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit + _SPARE_BYTES))
    outcome, code_hash = _run(channel, frame, loaded)
    if os.getpid() != own:
        # A copy of us that the agent forked and let return: there is one answer, and it is not this one's to give.
        os._exit(0)
    resource.setrlimit(resource.RLIMIT_DATA, (limit + _SPARE_BYTES, limit + _SPARE_BYTES))
    with suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0 if _answer(channel, outcome, code_hash) else EXIT_UNANSWERED)


def _settle_in(log: int, zygote: int) -> None:
    """A session and group of its own, that dies with the zygote and adopts what the agent leaves running."""
    os.setsid()
    linux.die_with_parent()
    if os.getppid() != zygote:
        os._exit(EXIT_UNANSWERED)
    linux.adopt_orphans()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(nowhere)
    os.close(log)
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable(2)


def _run(channel: socket.socket, frame: Frame, loaded: Loaded | None) -> tuple[Outcome, str | None]:
    assignment = Assignment.model_validate(frame.head["assignment"])
    # What OpenTelemetry's SDKs and tools take as the parent of what a process traces by itself.
    os.environ.pop("TRACEPARENT", None)
    if assignment.traceparent is not None:
        os.environ["TRACEPARENT"] = assignment.traceparent
    link = Link(channel)
    context = make_context(assignment, link, link.progress, float(frame.head["deadline"]), _make_log())
    if loaded is not None:
        return invoke(loaded, assignment, context), None
    command = frame.head["command"]
    return run_command(command, assignment, context), hash_command(command)


def _make_log() -> logging.Logger:
    log = logging.Logger("agent", logging.INFO)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    log.addHandler(handler)
    return log


def _answer(channel: socket.socket, outcome: Outcome, code_hash: str | None) -> bool:
    try:
        try:
            frame = encode_frame("outcome", {"outcome": outcome, "code_hash": code_hash})
        except FrameTooLarge as error:
            refused = fail("bound.output", f"the output is larger than {FRAME_LIMIT_BYTES} bytes ({error})")
            frame = encode_frame("outcome", {"outcome": refused, "code_hash": code_hash})
        channel.sendall(frame)
    except (OSError, MemoryError):
        return False
    return True


class Link:
    """The agent's way to the worker: artifacts and progress. Threads of the agent take turns."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._turn = threading.Lock()
        self._progressed_at = 0.0

    def put(self, data: bytes, media_type: str = "application/octet-stream") -> ArtifactRef:
        try:
            question = encode_frame("put", {"media_type": media_type}, bytes(data))
        except FrameTooLarge as error:
            raise InvalidInput(f"an artifact is at most {FRAME_LIMIT_BYTES} bytes ({error}); split it") from error
        return ArtifactRef.model_validate(self._ask(question).head["ref"])

    def get(self, ref: ArtifactRef | str) -> bytes:
        sha256 = ref if isinstance(ref, str) else ref.sha256
        return self._ask(encode_frame("get", {"sha256": sha256})).body

    def progress(self, text: str, fraction: float | None = None) -> None:
        """Sent at most 20 times a second; what comes faster is dropped, an end (fraction 1) never."""
        now = time.monotonic()
        if now - self._progressed_at < _PROGRESS_SECONDS and fraction != 1:
            return
        self._progressed_at = now
        with self._turn:
            self._send(encode_frame("progress", {"text": str(text)[:2000], "fraction": fraction}))

    def _ask(self, question: bytes) -> Frame:
        with self._turn:
            self._send(question)
            try:
                answer = receive_frame(self._channel)
            except (OSError, EOFError) as error:
                raise Unavailable("the worker does not answer") from error
        if answer.type == "refused":
            raise _REFUSALS.get(answer.head["code"], OrchestratorError)(answer.head["text"])
        return answer

    def _send(self, data: bytes) -> None:
        try:
            self._channel.sendall(data)
        except OSError as error:
            raise Unavailable("the worker does not listen") from error


_REFUSALS: dict[str, type[OrchestratorError]] = {each.code: each for each in (InvalidInput, NotFound, Unavailable)}
