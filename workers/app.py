"""A worker process: wires the house, registers one handler per message kind, runs Celery's event loop, drains."""

import gc
import os
import signal
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import structlog
from celery import Celery, signals
from celery.platforms import EX_OK
from celery.worker import state as celery_state
from opentelemetry.trace import set_tracer_provider
from sqlalchemy import Engine

from contracts.errors import InvalidInput, Misconfigured, OrchestratorError
from contracts.teams import Role
from contracts.topology import HANDLER_OF_KIND, QUEUE_OF_ROLE
from shared_state import dead_letters, outbox, presence
from shared_state.artifacts import ArtifactStore, Bodies, open_bodies
from shared_state.broker.app import make_app, signing_keys
from shared_state.broker.pool import LoopPool, outlive
from shared_state.broker.publisher import Publisher
from shared_state.broker.quarantine import Quarantine
from shared_state.crash_points import crash_point
from shared_state.engine import make_engine, transaction
from shared_state.metrics import Pools, make_registry, open_endpoint
from shared_state.migrate import refusal, require_served
from shared_state.settings import Settings
from shared_state.teams import queues_of_teams
from shared_state.teams_cache import TeamsCache
from shared_state.telemetry import Tracing, open_tracing
from workers.batcher import Batcher
from workers.delivery import Delivery, House
from workers.heartbeat import Heartbeat, StopReason
from workers.isolation import AttemptRunner, LlmAttempts
from workers.isolation.spans import in_process
from workers.metrics import WorkerMetrics
from workers.slots import Slots

log = structlog.get_logger("worker")

PRESENCE_SECONDS = 5.0
GC_THRESHOLDS = (20_000, 20, 20)
"""Python's own (700, 10, 10) would have the collector take a tenth of a busy worker's time."""


def queues_for(names: Sequence[str]) -> list[str]:
    """Queues of roles (`planner`, `executor`, `reviewer`) or queues by name; all roles where none is given."""
    if not names:
        return list(QUEUE_OF_ROLE.values())
    roles = {role.value: queue for role, queue in QUEUE_OF_ROLE.items()}
    unknown = [
        name
        for name in names
        if name not in roles and not name.replace("_", "").replace(".", "").replace("-", "").isalnum()
    ]
    if unknown:
        raise InvalidInput(f"{unknown[0]!r} is neither a role ({', '.join(Role)}) nor a queue's name", field="role")
    return list(dict.fromkeys(roles.get(name, name) for name in names))


def _require_used(engine: Engine, queues: Sequence[str]) -> None:
    """Raises `InvalidInput` for a queue that no role and no agent of a team has: nothing would ever come from it."""
    own = set(QUEUE_OF_ROLE.values())
    if own.issuperset(queues):
        return
    with transaction(engine) as connection:
        known = own | queues_of_teams(connection)
    for name in queues:
        if name not in known:
            others = ", ".join(sorted(known - own)[:20]) or "none"
            text = f"{name!r} is neither a role ({', '.join(Role)}) nor a queue of an applied team ({others})"
            raise InvalidInput(f"{text}; `orchestrator teams apply DIR` applies a team", field="role")


class WorkerProcess:
    """Everything one worker process owns, from start to drained."""

    def __init__(self, settings: Settings, queues: Sequence[str]) -> None:
        self.name = settings.worker_name or f"{socket.gethostname()}-{os.getpid()}"
        self._settings = settings
        self._queues = list(queues)
        self._tracing = open_tracing("orchestrator-worker", instance=self.name)
        if self._tracing is not None:
            _trace_handlers(self._tracing)
        registry = make_registry()
        self._endpoint = open_endpoint(settings, registry)
        self._engine = make_engine(settings.database_url, pool_size=5, application=f"worker {self.name}")
        require_served(self._engine)
        _require_used(self._engine, queues)
        keys = signing_keys(settings)
        self._quarantine = Quarantine(lambda messages: dead_letters.record_raw(self._engine, messages))
        self.celery = make_app(settings, queues=queues, quarantine=self._quarantine, keys=keys)
        self._publisher = Publisher(make_app(settings), keys, tracing=self._tracing)
        # One thread: publishing may wait for a broker that is away, and whoever writes must not.
        self._outbound = ThreadPoolExecutor(max_workers=1, thread_name_prefix="publish")
        self._heartbeat = Heartbeat(self._engine, lease_seconds=settings.lease_seconds)
        slots = Slots(settings.worker_slots)
        # A pool of its own: its one connection keeps its prepared plans, and never waits for a free one.
        self._batch_engine = make_engine(settings.database_url, pool_size=1, application=f"batcher {self.name}")
        self._batcher = Batcher(
            self._batch_engine,
            worker=self.name,
            queues=queues,
            slots=slots,
            lease_seconds=settings.lease_seconds,
            publish=self._publish,
        )
        metrics = WorkerMetrics(registry)
        metrics.watch(slots, settings.worker_slots)
        Pools(registry, [("worker", self._engine), ("batcher", self._batch_engine)])
        teams = partial(TeamsCache().get, self._engine)
        bodies = open_bodies(settings.artifact_url)

        def make_llm() -> LlmAttempts:
            from workers.llm.runner import LlmRunner  # takes seconds: only for workers that run such agents

            engine = make_engine(settings.database_url, pool_size=4, application=f"llm {self.name}", pool_seconds=30)
            store = partial(_store, engine, bodies)
            return LlmRunner(engine, settings, teams=teams, artifacts=store, metrics=metrics, tracing=self._tracing)

        self._runner = AttemptRunner(make_llm, partial(in_process, self._tracing) if self._tracing else None)
        house = House(
            keys=keys,
            batcher=self._batcher,
            heartbeat=self._heartbeat,
            runner=self._runner,
            slots=slots,
            teams=teams,
            artifacts=partial(_store, self._engine, bodies),
            hand_back=lambda refs: outbox.hand_back(self._engine, refs),
            metrics=metrics,
            tracing=self._tracing,
        )
        self._delivery = Delivery(house)
        self._refusal: str | None = None
        self._stopping = threading.Event()
        self._drained = threading.Event()
        self._is_patient = False
        """Whether nobody waits for the end of a drain, so that everything it holds may finish."""
        register_handlers(self.celery, self._delivery)

    def run(self) -> None:
        """Consume until SIGTERM, then drain. Blocks.

        Raises `Misconfigured`, drained, once the schema has moved on to one that does not serve this release.
        """
        signals.worker_shutting_down.connect(self._on_shutdown, weak=False)
        # Any receiver of this signal keeps Celery from setting up logging by itself.
        signals.setup_logging.connect(_keep_logging, weak=False)
        # From its first report on others count on it, and tell it to stop; Celery listens only once it has started.
        signal.signal(signal.SIGTERM, _stop_once_started)
        presence_thread = threading.Thread(target=self._report, name="presence", daemon=True)
        presence_thread.start()
        worker = self.celery.Worker(
            hostname=f"{self.name}@{socket.gethostname()}",
            pool=LoopPool,
            concurrency=self._settings.worker_slots,
            queues=self._queues,
            task_events=True,
            without_gossip=True,
            without_mingle=True,
            quiet=True,
        )
        # What is here now stays for good: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        log.info("worker.started", worker=self.name, queues=self._queues, slots=self._settings.worker_slots)
        try:
            worker.start()
        finally:
            self._close(presence_thread)
        if self._refusal is not None:
            raise Misconfigured(self._refusal)

    def _publish(self, wakeups: list[outbox.Wakeup]) -> None:
        if wakeups:
            crash_point("C17")
            self._outbound.submit(outbox.publish, self._publisher, wakeups)

    def _on_shutdown(self, **_: Any) -> None:
        """Celery stops consuming and waits for running handlers; after `drain_seconds` their work is stopped, unless a
        person asked for the drain."""
        self._stopping.set()
        self._delivery.drain()
        if self._is_patient:
            return
        threading.Thread(target=self._end_late, name="drain", daemon=True).start()

    def _end_late(self) -> None:
        if not self._drained.wait(self._settings.drain_seconds):
            log.warning("drain.late", running=self._heartbeat.count)
            self._heartbeat.end_all(StopReason.STOPPED)

    def _close(self, presence_thread: threading.Thread) -> None:
        self._drained.set()
        self._stopping.set()
        self._batcher.stop()
        self._delivery.close()
        self._outbound.shutdown(wait=True)
        self._heartbeat.stop()
        self._runner.close()
        self._quarantine.stop(5.0)
        presence_thread.join(timeout=2)
        self._say("gone")
        if self._endpoint is not None:
            self._endpoint.close()
        if self._tracing is not None:
            self._tracing.close()
        log.info("worker.stopped", worker=self.name)

    def _report(self) -> None:
        first = True
        while True:
            heard = self._say("draining" if self._stopping.is_set() else "running", first=first)
            first = first and heard is None
            if heard is not None:
                self._batcher.peers = heard.peers
                self._drain_if_asked(heard.drain_requested_by)
            self._check_schema()
            if self._stopping.wait(PRESENCE_SECONDS):
                return

    def _drain_if_asked(self, by: str | None) -> None:
        """As on SIGTERM, but that nobody waits; with exit status 0, which says that it need not be started again."""
        if by is not None and not self._stopping.is_set():
            log.info("worker.drained", worker=self.name, by=by)
            self._is_patient = True
            self._stopping.set()
            os.kill(os.getpid(), signal.SIGTERM)

    def _check_schema(self) -> None:
        """Stop as if told to, where somebody has migrated the database past what this release can work with."""
        try:
            reason = refusal(self._engine)
        except OrchestratorError:
            return  # the database is away: it says nothing of its schema
        if reason is not None and not self._stopping.is_set():
            log.error("worker.refused", worker=self.name, text=reason)
            self._refusal = reason
            self._stopping.set()
            os.kill(os.getpid(), signal.SIGTERM)

    def _say(self, state: str, *, first: bool = False) -> presence.Heard | None:
        try:
            return presence.report(
                self._engine, self.name, host=socket.gethostname(), pid=os.getpid(), queues=self._queues,
                slots=self._settings.worker_slots, busy=self._heartbeat.count, state=state, first=first,
            )  # fmt: skip
        except OrchestratorError as error:
            log.warning("presence.unavailable", text=error.text)
            return None


def _store(engine: Engine, bodies: Bodies | None, tenant: str) -> ArtifactStore:
    return ArtifactStore(engine, tenant, bodies)


def _stop_once_started(*_: object) -> None:
    celery_state.should_stop = EX_OK


def _keep_logging(**_: Any) -> None:
    """Logging is set up already, by `shared_state.logs`."""


def _trace_handlers(tracing: Tracing) -> None:
    """A span for each message, from Celery's signals; its parent is what the message carries: its publishing.

    What agents in threads trace by themselves goes the same way, through the process's global provider.
    """
    from opentelemetry.instrumentation.celery import CeleryInstrumentor

    set_tracer_provider(tracing.provider)
    instrumentor: Any = CeleryInstrumentor
    instrumentor().instrument(tracer_provider=tracing.provider)


def register_handlers(app: Celery, delivery: Delivery) -> None:
    """One handler per message kind, all the same path; the names are the wire's, not this module's."""

    def handle(wire: object) -> None:
        delivery.handle(wire, outlive())

    for name in HANDLER_OF_KIND.values():
        app.task(handle, name=name, ignore_result=True)


def run_worker(settings: Settings, names: Sequence[str]) -> None:
    WorkerProcess(settings, queues_for(names)).run()
