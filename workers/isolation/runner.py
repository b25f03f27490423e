"""Runs one attempt where its agent says it runs."""

import threading

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
    ) -> Ran:
        """One attempt to its outcome, within the timeout and a second. Never raises."""
        runner = self._thread if agent.isolation is Isolation.THREAD else self._process
        return runner.run(
            agent,
            assignment,
            artifacts=artifacts,
            progress=progress,
            timeout_seconds=timeout_seconds,
            cancelled=cancelled,
        )

    def close(self) -> None:
        """Ends whatever still runs."""
        self._process.close()
        self._thread.close()
