"""Runs attempts of LLM agents: all of a worker process on one event loop, hundreds at once."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from pydantic_ai.exceptions import UserError
from sqlalchemy import Engine

from contracts.assignments import Assignment
from contracts.context import Artifacts, Progress
from contracts.errors import OrchestratorError
from contracts.outcomes import Failed, Outcome
from contracts.teams import Agent, Team
from shared_state.artifacts import ArtifactStore
from shared_state.lineage import Lineage
from shared_state.model_calls import Journal
from shared_state.settings import Settings
from shared_state.telemetry import Tracing
from workers.agents.invoke import explain, fail, read_typed
from workers.agents.jsonable import clean_text
from workers.agents.load import NotImportable, load_type
from workers.isolation.ran import LOG_TAIL_BYTES, Ran
from workers.llm.brief import make_brief
from workers.llm.counted import CountedJournal
from workers.llm.outputs import Outputs
from workers.llm.providers import Providers
from workers.llm.talk import Talk
from workers.llm.tools import Desk, Sources, find_tools
from workers.metrics import WorkerMetrics

_LOOK_SECONDS = 0.25
"""How often cancellations are looked for."""
_THREADS = 8
"""For what blocks: the journal, tools, and what is done with an outcome."""


class LlmRunner:
    """A `Runner`: `run` returns at once, and `then` is called from a thread when the attempt is over."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        *,
        teams: Callable[[str, str], Team],
        artifacts: Callable[[str], ArtifactStore],
        metrics: WorkerMetrics,
        tracing: Tracing | None = None,
    ) -> None:
        """`engine` has as many connections as there are threads, or waits for one of them."""
        self._engine = engine
        self._teams = teams
        self._artifacts = artifacts
        self._metrics = metrics
        self._tracing = tracing
        self._providers = Providers(settings)
        self._pool = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="llm")
        self._running: dict[asyncio.Task[Outcome], threading.Event] = {}
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llm-loop", daemon=True)
        self._thread.start()
        self._watching = asyncio.run_coroutine_threadsafe(self._watch(), self._loop)

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
        del artifacts  # the journal and the tools read and write as the worker does
        attempt = self._attempt(agent, assignment, progress, timeout_seconds, cancelled, then)
        asyncio.run_coroutine_threadsafe(attempt, self._loop)

    def close(self) -> None:
        """End whatever still runs."""
        self._closed = True
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        self._pool.shutdown(wait=True)

    async def _attempt(
        self,
        agent: Agent,
        assignment: Assignment,
        progress: Progress,
        timeout_seconds: float,
        cancelled: threading.Event,
        then: Callable[[Ran], None],
    ) -> None:
        began = time.monotonic()
        log: list[str] = []
        task = asyncio.create_task(self._converse(agent, assignment, progress, log))
        self._running[task] = cancelled
        done, _ = await asyncio.wait([task], timeout=timeout_seconds)
        if not done:
            task.cancel()
            await asyncio.wait([task])
        del self._running[task]
        ran = Ran(
            outcome=self._outcome(task, cancelled, timeout_seconds),
            log_tail=clean_text("\n".join(log)[-LOG_TAIL_BYTES:], LOG_TAIL_BYTES),
            code_hash=None,
            seconds=time.monotonic() - began,
            peak_memory_bytes=None,
        )
        await self._blocking(lambda: then(ran))

    def _outcome(self, task: asyncio.Task[Outcome], cancelled: threading.Event, timeout_seconds: float) -> Outcome:
        if not task.cancelled():
            error = task.exception()
            return task.result() if error is None else Failed(failure=explain(error))
        if self._closed:
            return fail("worker.stopped", "the worker was stopped before the attempt ended")
        if cancelled.is_set():
            return fail("task.cancelled", "the task was cancelled")
        return fail("bound.time", f"the attempt ran longer than {timeout_seconds:g} s")

    async def _converse(self, agent: Agent, assignment: Assignment, progress: Progress, log: list[str]) -> Outcome:
        prepared = await self._blocking(lambda: self._prepare(agent, assignment, progress))
        if not isinstance(prepared, Talk):
            outcome: Outcome = prepared
            return outcome
        prepared.log = log
        return await prepared.run()

    def _prepare(self, agent: Agent, assignment: Assignment, progress: Progress) -> Talk | Outcome:
        """What an attempt needs before anything is asked; it imports the team's code and may wait for Postgres."""
        try:
            wrong = read_typed(load_type(agent.input) if agent.input else None, assignment)
            if wrong is not None:
                return wrong
            outputs = Outputs(agent.role, load_type(agent.output) if agent.output else None)
            model = self._providers.model(agent)
            team = self._teams(assignment.tenant, assignment.team_digest)
            brief = make_brief(model.model_id, agent, team, assignment, find_tools(agent.tools), outputs)
        except NotImportable as error:
            return fail(error.code, error.text, error.detail)
        except (UserError, ImportError) as error:
            return fail("model.unsupported", "this model, or what the agent asks of it, is not supported", str(error))
        except OrchestratorError as error:
            return fail(error.code, error.text)
        store = self._artifacts(assignment.tenant)
        sources = Sources(assignment, store, Lineage(self._engine, assignment.tenant, assignment.step_id))
        return Talk(
            model,
            brief,
            assignment,
            journal=CountedJournal(Journal(self._engine, store, assignment), assignment.agent, self._metrics),
            desk=Desk(sources, lambda: datetime.now(UTC)),
            progress=progress,
            redact=self._providers.redact,
            blocking=self._blocking,
            tracing=self._tracing,
        )

    async def _blocking(self, work: Callable[[], Any]) -> Any:
        return await self._loop.run_in_executor(self._pool, work)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            for task, cancelled in self._running.items():
                if cancelled.is_set():
                    task.cancel()

    async def _shut(self) -> None:
        self._watching.cancel()
        running = list(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=5)
        await self._providers.close()
