"""Runs one attempt where its agent says it runs."""

import threading
from collections.abc import Callable
from typing import Protocol

from contracts.assignments import Assignment
from contracts.context import Artifacts, Progress
from contracts.teams import Agent, Isolation, Kind
from workers.agents.invoke import fail
from workers.isolation.process import ProcessRunner
from workers.isolation.ran import Ran
from workers.isolation.thread import ThreadRunner


class LlmAttempts(Protocol):
    """`workers.llm.runner.LlmRunner`."""

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
    ) -> None: ...

    def close(self) -> None: ...


Wrapping = Callable[[Agent, Assignment, Callable[[Assignment], Ran]], Ran]
"""Runs an attempt's process, given as the last argument, with an assignment that may say more."""


class AttemptRunner:
    """All ways to run behind one call; safe from any number of threads."""

    def __init__(self, make_llm: Callable[[], LlmAttempts] | None = None, wrapping: Wrapping | None = None) -> None:
        """`make_llm` imports what talks to models, which takes seconds and many megabytes: only who needs it pays.
        Without it there are no such agents here. `wrapping` goes around whatever runs in a process."""
        self._wrapping = wrapping
        self._process = ProcessRunner()
        self._thread = ThreadRunner()
        self._make_llm = make_llm
        self._llm: LlmAttempts | None = None
        self._making = threading.Lock()

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
        if agent.kind is Kind.LLM:
            try:
                llm = self._get_llm()
            except ImportError as error:
                text = (
                    "agents of kind llm need an extra where the worker runs: pip install 'agent-orchestrator[openai]'"
                )
                then(Ran(fail("agent.not_importable", text, str(error)), "", None, 0.0, None))
                return
            llm.run(
                agent,
                assignment,
                artifacts=artifacts,
                progress=progress,
                timeout_seconds=timeout_seconds,
                cancelled=cancelled,
                then=then,
            )
            return
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

        def run(assignment: Assignment) -> Ran:
            return self._process.run(
                agent,
                assignment,
                artifacts=artifacts,
                progress=progress,
                timeout_seconds=timeout_seconds,
                cancelled=cancelled,
            )

        then(run(assignment) if self._wrapping is None else self._wrapping(agent, assignment, run))

    def close(self) -> None:
        """Ends whatever still runs."""
        self._process.close()
        self._thread.close()
        if self._llm is not None:
            self._llm.close()

    def _get_llm(self) -> LlmAttempts:
        with self._making:
            if self._llm is None:
                if self._make_llm is None:
                    raise ImportError("this process has no way to run agents of kind llm")
                self._llm = self._make_llm()
            return self._llm
