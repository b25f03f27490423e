"""Isolation `process`: every attempt in a process of its own, forked from a warm zygote, killed with all it started."""

import os
import threading
import time

from contracts.assignments import Assignment
from contracts.context import Artifacts, Progress
from contracts.errors import OrchestratorError
from contracts.outcomes import Failed
from contracts.teams import Agent
from workers.agents.invoke import explain, fail
from workers.isolation.attempt import Attempt
from workers.isolation.frames import FrameTooLarge, encode_frame
from workers.isolation.ran import Ran
from workers.isolation.zygotes import Zygote, Zygotes


class ProcessRunner:
    """Runs attempts from any number of threads, each waiting for its own. `close` ends whatever still runs."""

    def __init__(self) -> None:
        self._zygotes = Zygotes()
        self._closed = threading.Event()

    def run(
        self,
        agent: Agent,
        assignment: Assignment,
        *,
        artifacts: Artifacts,
        progress: Progress,
        timeout_seconds: float,
        cancelled: threading.Event,
    ) -> Ran:
        """One attempt to its outcome, within the timeout and a second. Never raises."""
        started_at = time.monotonic()
        try:
            head = {
                "assignment": assignment,
                "command": agent.command,
                "deadline": time.time() + timeout_seconds,
            }
            attempt = Attempt(
                question=encode_frame("assignment", head),
                artifacts=artifacts,
                progress=progress,
                deadline=started_at + timeout_seconds,
                timeout_seconds=timeout_seconds,
                log_bytes=agent.log_bytes,
                cancelled=cancelled,
                closed=self._closed,
            )
        except FrameTooLarge as error:
            return _unrun(fail("agent.input", f"the step's inputs are too large together ({error})"), started_at)
        try:
            with attempt:
                return self._run(agent, attempt, started_at)
        except OrchestratorError as error:
            code = "worker.stopped" if self._closed.is_set() else "internal"
            return _unrun(fail(code, error.text), started_at)
        except Exception as error:
            # The edge: a defect of ours costs this attempt, not the thread that waits for it.
            failure = explain(error).model_copy(update={"code": "internal", "retryable": None})
            return _unrun(Failed(failure=failure), started_at)

    def close(self) -> None:
        self._closed.set()
        self._zygotes.close()

    def _run(self, agent: Agent, attempt: Attempt, started_at: float) -> Ran:
        module = agent.call.partition(":")[0] if agent.call is not None else None
        zygote = self._send(module, agent, attempt)
        try:
            attempt.converse(zygote.importing)
            self._judge_zygote(zygote, attempt)
            return Ran(
                outcome=attempt.outcome(),
                log_tail=attempt.log_tail(),
                code_hash=attempt.code_hash,
                seconds=time.monotonic() - started_at,
                peak_memory_bytes=attempt.peak_memory_bytes,
            )
        finally:
            self._zygotes.give_back(zygote)

    def _send(self, module: str | None, agent: Agent, attempt: Attempt) -> Zygote:
        """Hand the attempt to a zygote; to a new one, once, where the old died in this very moment."""
        zygote = self._zygotes.take(module)
        try:
            zygote.send(agent.call, agent.memory_mb, attempt.descriptors)
        except OSError:
            self._zygotes.retire(zygote)
            self._zygotes.give_back(zygote)
            zygote = self._zygotes.take(module)
            try:
                zygote.send(agent.call, agent.memory_mb, attempt.descriptors)
            except OSError as error:
                self._zygotes.give_back(zygote)
                raise OrchestratorError(
                    f"a process for agents ended at once: {os.strerror(error.errno or 0)}"
                ) from error
        attempt.descriptors_sent()
        return zygote

    def _judge_zygote(self, zygote: Zygote, attempt: Attempt) -> None:
        """Whether the zygote can go on: it is dead, does not answer, or hangs in (or failed) its import."""
        if not attempt.started:
            attempt.add_log(zygote.output_tail())
        if attempt.orphaned:
            self._zygotes.retire(zygote)
            zygote.end(at_once=True)
        elif attempt.broken or (zygote.importing.is_set() and not attempt.refused):
            self._zygotes.retire(zygote)


def _unrun(outcome: Failed, started_at: float) -> Ran:
    return Ran(outcome, "", None, time.monotonic() - started_at, None)
