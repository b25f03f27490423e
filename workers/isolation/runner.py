"""Runs one attempt where its agent says it runs."""

import threading
from collections.abc import Callable

from contracts.assignments import Assignment
from contracts.context import Artifacts, Progress
from contracts.teams import Agent, Isolation
from workers.isolation.process import ProcessRunner
from workers.isolation.ran import Ran
from workers.isolation.thread import ThreadRunner


class AttemptRunner:
    """Both isolations behind one call; safe from any number of threads."""

    def __init__(self) -> None:
        self._process = ProcessRunner()
        self._thread = ThreadRunner()

    @property
    def abandoned_count(self) -> int:
        """Threads whose attempt ran past its time and that still run."""
        return self._thread.abandoned_count

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
        """One attempt. `then` gets its outcome, once, within the timeout and a second. Never raises by itself."""
        if agent.isolation is Isolation.THREAD:
            self._thread.run(
                agent,
                assignment,
                artifacts=artifacts,
                progress=progress,
                timeout_seconds=timeout_seconds,
                cancelled=cancelled,
                then=then,
            )
            return
        ran = self._process.run(
            agent,
            assignment,
            artifacts=artifacts,
            progress=progress,
            timeout_seconds=timeout_seconds,
            cancelled=cancelled,
        )
        then(ran)

    def close(self) -> None:
        """Ends whatever still runs."""
        self._process.close()
        self._thread.close()
