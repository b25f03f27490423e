"""Isolation `thread`: an agent's body in a thread of the worker, for agents that only wait for something.

A thread cannot be killed: past its time an attempt is given up, and its thread is left to end when it will.
"""

import logging
import threading
import time
from dataclasses import replace
from queue import SimpleQueue

from contracts.assignments import Assignment
from contracts.context import Artifacts, Progress
from contracts.outcomes import Failed, Outcome
from contracts.teams import Agent
from workers.agents.invoke import explain, fail, invoke, make_context
from workers.agents.jsonable import clean_text
from workers.agents.load import Loaded, NotImportable, load
from workers.isolation.ran import LOG_TAIL_BYTES, Ran

_LOOK_SECONDS = 0.25
"""How often a cancellation is looked for."""


class Job:
    """One attempt on its way through a thread. `outcome` and `code_hash` are set before `done`."""

    def __init__(self, call: str, assignment: Assignment, artifacts: Artifacts, progress: Progress, deadline: float):
        self.call = call
        self.assignment = assignment
        self.log = TailHandler()
        context = make_context(assignment, artifacts, progress, deadline)
        self.context = replace(context, log=_make_log(self.log))
        self.done = threading.Event()
        self.outcome: Outcome | None = None
        self.code_hash: str | None = None


class TailHandler(logging.Handler):
    """Keeps the last 4 KB of what an agent logged."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = (self.text + self.format(record) + "\n")[-LOG_TAIL_BYTES:]


class ThreadRunner:
    """Runs attempts from any number of threads. `abandoned_count` is how many threads were given up and still run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[Job | None]] = []
        self._loaded: dict[str, Loaded] = {}
        self._abandoned: set[Job] = set()
        self._closed = threading.Event()

    @property
    def abandoned_count(self) -> int:
        with self._lock:
            return len(self._abandoned)

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
        """One attempt to its outcome, within the timeout. Never raises."""
        started_at = time.monotonic()
        job = Job(agent.call or "", assignment, artifacts, progress, time.time() + timeout_seconds)
        outcome: Outcome | None
        try:
            self._give(job)
        except RuntimeError as error:
            outcome = fail("internal", f"this worker cannot start another thread: {error}")
        else:
            outcome = self._wait(job, started_at + timeout_seconds, timeout_seconds, cancelled)
        return Ran(
            outcome=outcome,
            log_tail=clean_text(job.log.text, LOG_TAIL_BYTES),
            code_hash=job.code_hash,
            seconds=time.monotonic() - started_at,
            peak_memory_bytes=None,
        )

    def close(self) -> None:
        """Idle threads end, attempts that run are given up."""
        self._closed.set()
        with self._lock:
            idle, self._idle = self._idle, []
        for queue in idle:
            queue.put(None)

    def _wait(self, job: Job, deadline: float, timeout_seconds: float, cancelled: threading.Event) -> Outcome:
        while not job.done.wait(min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic()))):
            if cancelled.is_set():
                verdict = fail("task.cancelled", "the task was cancelled")
            elif self._closed.is_set():
                verdict = fail("worker.stopped", "the worker was stopped before the attempt ended")
            elif time.monotonic() >= deadline:
                verdict = fail("bound.time", f"the attempt ran longer than {timeout_seconds:g} s")
            else:
                continue
            if self._abandon(job):
                return verdict
        return job.outcome or fail("internal", "the attempt's thread ended without an outcome")

    def _give(self, job: Job) -> None:
        with self._lock:
            if self._idle:
                self._idle.pop().put(job)
                return
        queue: SimpleQueue[Job | None] = SimpleQueue()
        queue.put(job)
        threading.Thread(target=self._serve, args=(queue,), name="agent", daemon=True).start()

    def _abandon(self, job: Job) -> bool:
        """False where the job was done in this very moment."""
        with self._lock:
            if job.done.is_set():
                return False
            self._abandoned.add(job)
            return True

    def _serve(self, queue: "SimpleQueue[Job | None]") -> None:
        while (job := queue.get()) is not None:
            try:
                outcome = self._invoke(job)
            except BaseException as error:
                outcome = Failed(failure=explain(error))
            if not self._finish(job, outcome, queue):
                return

    def _invoke(self, job: Job) -> Outcome:
        try:
            loaded = self._load(job.call)
        except NotImportable as error:
            return fail(error.code, error.text, error.detail)
        job.code_hash = loaded.code_hash
        return invoke(loaded, job.assignment, job.context)

    def _load(self, call: str) -> Loaded:
        loaded = self._loaded.get(call)
        if loaded is None:
            loaded = self._loaded[call] = load(call)
        return loaded

    def _finish(self, job: Job, outcome: Outcome, queue: "SimpleQueue[Job | None]") -> bool:
        """Hand over the outcome; false when this thread is to end, because it was given up or all is over."""
        with self._lock:
            job.outcome = outcome
            job.done.set()
            if job in self._abandoned:
                self._abandoned.remove(job)
                return False
            if self._closed.is_set():
                return False
            self._idle.append(queue)
            return True


def _make_log(handler: logging.Handler) -> logging.Logger:
    log = logging.Logger("agent", logging.INFO)
    log.addHandler(handler)
    return log
