"""Agents of kind `command`: an external program, one JSON object on its stdin, one on its stdout.

The protocol is documented in docs/agents.md.
"""

import hashlib
import os
import selectors
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from contracts.assignments import Assignment
from contracts.context import Context
from contracts.errors import Failure
from contracts.outcomes import OUTCOME, Failed, Outcome
from workers.agents.invoke import describe_invalid, fail, read_outcome
from workers.agents.jsonable import clean_text

OUTPUT_LIMIT_BYTES = 64 * 1024 * 1024
_HASHED_LIMIT_BYTES = 1_000_000
_TOLD = {
    "task_id",
    "step_id",
    "key",
    "role",
    "agent",
    "attempt",
    "goal",
    "input",
    "inputs",
    "proposal",
    "feedback",
    "answers",
}


def run_command(command: Sequence[str], assignment: Assignment, context: Context) -> Outcome:
    """Run the program to its end. Time and memory are limited by the process around this call, not here."""
    question = to_json({**assignment.model_dump(mode="json", include=_TOLD), "deadline": context.deadline})
    try:
        program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    except OSError as error:
        return fail("agent.not_importable", f"cannot run {command[0]!r}: {error.strerror}")
    except ValueError as error:
        return fail("agent.not_importable", f"cannot run {command[0]!r}: {error}")
    with program:
        answer = _converse(program, question)
        if answer is None:
            program.kill()
            return fail("bound.output", f"the program answered with more than {OUTPUT_LIMIT_BYTES} bytes")
        status = program.wait()
    if status != 0:
        return fail("agent.crashed", f"the program {describe_status(status)}")
    return read_answer(answer)


def read_answer(answer: bytes) -> Outcome:
    """What a program printed as an outcome; `agent.protocol` where it is not the documented JSON."""
    try:
        value = from_json(answer, allow_inf_nan=False)
    except ValueError as error:
        text = "the program printed nothing" if not answer.strip() else f"the program's answer is not JSON: {error}"
        return fail("agent.protocol", text, _excerpt(answer))
    if not isinstance(value, dict):
        return fail("agent.protocol", "the program's answer is not a JSON object", _excerpt(answer))
    try:
        outcome = OUTCOME.validate_python(_expand(value))
    except ValidationError as error:
        return fail("agent.protocol", describe_invalid(error, "answer"), _excerpt(answer))
    if isinstance(outcome, Failed):
        return _own_failure(outcome.failure)
    return read_outcome(outcome)


def hash_command(command: Sequence[str]) -> str:
    """SHA-256 over the arguments and over those of them that are files; large files by size and time alone."""
    total = hashlib.sha256()
    for part in command:
        total.update(part.encode(errors="surrogateescape") + b"\0")
        try:
            status = os.stat(part)
            if status.st_size > _HASHED_LIMIT_BYTES:
                total.update(f"{status.st_size} {status.st_mtime_ns}".encode())
            else:
                total.update(Path(part).read_bytes())
        except (OSError, ValueError):
            continue
    return total.hexdigest()


def describe_status(status: int) -> str:
    """An exit status as `subprocess` gives it (negative for a signal), in words."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _own_failure(failure: Failure) -> Failed:
    if not failure.code.startswith("agent."):
        return fail("agent.protocol", "answer.failure.code: a program's own codes start with agent.")
    return Failed(failure=failure.model_copy(update={"text": clean_text(failure.text, 4000), "detail": None}))


def _expand(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """The short forms `{"output": ...}`, `{"plan": ...}` and `{"judgement": ...}` with their type."""
    if "type" in value:
        return value
    for key, type in (("output", "done"), ("plan", "planned"), ("judgement", "judged")):
        if key in value:
            return {"type": type, **value}
    return value


def _converse(program: subprocess.Popen[bytes], question: bytes) -> bytes | None:
    """Write the question and read the answer at once, so that neither side waits for ever; null past the limit.

    Ends with the program, not with its output: something it left behind may hold the pipe open.
    """
    assert program.stdin is not None
    assert program.stdout is not None
    unsent, answer = memoryview(question), bytearray()
    ended = os.pidfd_open(program.pid)
    os.set_blocking(program.stdin.fileno(), False)
    os.set_blocking(program.stdout.fileno(), False)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(program.stdin, selectors.EVENT_WRITE)
            selector.register(program.stdout, selectors.EVENT_READ)
            selector.register(ended, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if program.stdin in ready:
                    unsent = _write(program.stdin, unsent)
                    if not unsent:
                        selector.unregister(program.stdin)
                        program.stdin.close()
                if program.stdout in ready and not _read(program.stdout, answer):
                    selector.unregister(program.stdout)
                if len(answer) > OUTPUT_LIMIT_BYTES:
                    return None
                if ended in ready and program.stdout not in ready:
                    return bytes(answer)
    finally:
        os.close(ended)


def _write(pipe: IO[bytes], unsent: memoryview) -> memoryview:
    """What is still unsent; nothing when the program does not want to read it."""
    try:
        return unsent[os.write(pipe.fileno(), unsent[: 1 << 16]) :]
    except BlockingIOError:
        return unsent
    except BrokenPipeError:
        return unsent[:0]


def _read(pipe: IO[bytes], answer: bytearray) -> bool:
    """False at the end of the output."""
    try:
        data = os.read(pipe.fileno(), 1 << 18)
    except BlockingIOError:
        return True
    answer += data
    return bool(data)


def _excerpt(answer: bytes) -> str:
    return answer[:4000].decode(errors="replace")
