"""Isolation `thread`: an agent's body in the thread that it is given, for agents that only wait for something.

A thread cannot be killed: past its time an attempt is given up, by a watcher that hands on its outcome, and its thread
is left to end when it will.
"""

import logging
import threading
import time
from collections.abc import Callable

from contracts.assignments import Assignment
from contracts.context import Artifacts, Progress
from contracts.outcomes import Failed, Outcome
from contracts.teams import Agent
from workers.agents.invoke import explain, fail, invoke, make_context
from workers.agents.jsonable import clean_text, to_json_value
from workers.agents.load import Loaded, NotImportable, load
from workers.isolation.ran import LOG_TAIL_BYTES, Ran

_LOOK_SECONDS = 0.25
"""How often cancellations and overdue attempts are looked for."""
_FORMAT = logging.Formatter("%(levelname)s %(message)s")


class Job:
    """One attempt in a thread, whose outcome is handed on once: by the thread, or by the watcher that gave it up."""

    def __init__(
        self,
        assignment: Assignment,
        artifacts: Artifacts,
        progress: Progress,
        timeout_seconds: float,
        cancelled: threading.Event,
        then: Callable[[Ran], None],
    ) -> None:
        self.timeout_seconds = timeout_seconds
        self.cancelled = cancelled
        self.code_hash: str | None = None
        self.over = False
        self._then = then
        self._started_at = time.monotonic()
        self._log = TailLog()
        self.context = make_context(assignment, artifacts, progress, time.time() + timeout_seconds, self._log)

    def is_overdue(self) -> bool:
        return time.monotonic() >= self._started_at + self.timeout_seconds

    def hand_on(self, outcome: Outcome) -> None:
        ran = Ran(
            outcome=outcome,
            log_tail=clean_text(self._log.text, LOG_TAIL_BYTES),
            code_hash=self.code_hash,
            seconds=time.monotonic() - self._started_at,
            peak_memory_bytes=None,
        )
        self._then(ran)


class TailLog(logging.Logger):
    """Keeps the last 4 KB of what an agent logged. Without handlers: `logging` keeps a list of all there are."""

    def __init__(self) -> None:
        super().__init__("agent", logging.INFO)
        self.text = ""
        self._lock = threading.Lock()

    def callHandlers(self, record: logging.LogRecord) -> None:
        line = _FORMAT.format(record) + "\n"
        with self._lock:
            self.text = (self.text + line)[-LOG_TAIL_BYTES:]


class ThreadRunner:
    """Runs attempts in its callers' threads. `abandoned_count` is how many of them were given up and still run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: set[Job] = set()
        self._abandoned = 0
        self._some = threading.Event()
        self._closed = threading.Event()
        self._loaded: dict[str, Loaded] = {}
        self._watcher = threading.Thread(target=self._watch, name="attempt-watcher", daemon=True)
        self._watcher.start()

    @property
    def abandoned_count(self) -> int:
        return self._abandoned

    def run(
        self,
        agent: Agent,
        assignment: Assignment,
        *,
        artifacts: Artifacts,
        progress: Progress,
        timeout_seconds: float,
        cancelled: threading.Event,
        then: Callable[[Ran], None],
    ) -> None:
        """One attempt. `then` gets what came of it, within the timeout; the call returns when the body does."""
        if agent.gates:
            assignment = _apart(assignment)
        job = Job(assignment, artifacts, progress, timeout_seconds, cancelled, then)
        with self._lock:
            # What the watcher's last look does not find nobody would give up.
            closed = self._closed.is_set()
            if not closed:
                self._jobs.add(job)
        if closed:
            job.hand_on(_stopped())
            return
        if not self._some.is_set():
            self._some.set()
        try:
            outcome = self._invoke(job, agent.call or "", assignment)
        except BaseException as error:
            outcome = Failed(failure=explain(error))
        with self._lock:
            if job.over:
                self._abandoned -= 1
                return
            job.over = True
            self._jobs.discard(job)
        job.hand_on(outcome)

    def close(self) -> None:
        """Attempts that run are given up; those that come later do not begin."""
        with self._lock:
            self._closed.set()
            self._some.set()
        self._watcher.join(timeout=2)

    def _watch(self) -> None:
        closed = False
        while not closed:
            self._some.wait()
            # Known before the look, so that the last look is one that gives everything up.
            closed = self._closed.wait(_LOOK_SECONDS)
            with self._lock:
                jobs = list(self._jobs)
                if not jobs and not self._closed.is_set():
                    self._some.clear()
            for job in jobs:
                self._look_at(job)

    def _look_at(self, job: Job) -> None:
        if job.cancelled.is_set():
            outcome = fail("task.cancelled", "the task was cancelled")
        elif self._closed.is_set():
            outcome = _stopped()
        elif job.is_overdue():
            outcome = fail("bound.time", f"the attempt ran longer than {job.timeout_seconds:g} s")
        else:
            return
        with self._lock:
            if job.over:
                return
            job.over = True
            self._jobs.discard(job)
            self._abandoned += 1
        # What hears of it may wait for the database; the others' time must not run on meanwhile.
        threading.Thread(target=job.hand_on, args=(outcome,), name="given-up", daemon=True).start()

    def _invoke(self, job: Job, call: str, assignment: Assignment) -> Outcome:
        loaded = self._loaded.get(call)
        if loaded is None:
            try:
                loaded = self._loaded[call] = load(call)
            except NotImportable as error:
                return fail(error.code, error.text, error.detail)
        job.code_hash = loaded.code_hash
        return invoke(loaded, assignment, job.context)


def _apart(assignment: Assignment) -> Assignment:
    """What a body may change as it likes: gates compare its output with what it was given, and not with what it made
    of that."""
    inputs = {key: to_json_value(body) for key, body in assignment.inputs.items()}
    return assignment.model_copy(update={"input": to_json_value(assignment.input), "inputs": inputs})


def _stopped() -> Failed:
    return fail("worker.stopped", "the worker was stopped before the attempt ended")
