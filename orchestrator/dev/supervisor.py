"""The supervisor: starts the parts in order, keeps them alive, scales workers, and stops everything it started."""

import logging
import os
import secrets
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from contracts.errors import OrchestratorError, Unavailable
from orchestrator.child import finish
from orchestrator.client import Client
from orchestrator.dev.counts import asked_counts, asked_when, forget_counts
from orchestrator.dev.flower import FlowerAccess
from orchestrator.dev.options import ALL_ROLES, Options, merged_counts
from orchestrator.dev.parts import Part, ProcessPart, ServerPart
from orchestrator.dev.ports import PortOfPart
from orchestrator.dev.record import write_record, write_targets
from orchestrator.dev.teams import import_paths
from orchestrator.dev.watch import Watched
from orchestrator.logs import RotatingLog
from shared_state.crash_points import passed_on
from shared_state.engine import make_engine
from shared_state.settings import PREFIX, Settings, child_environment
from shared_state.sweep import expire_worker
from shared_state.telemetry import open_tracing

LOGGER = "orchestrator.dev"
log = logging.getLogger(LOGGER)

READY_SECONDS = 60.0
STOP_SECONDS = 10.0
LOOK_SECONDS = 1.0
"""How often the scale file is read."""


class Supervisor:
    """Owns every child of a dev server. All methods are called from the main thread (see `launch`).

    `settings` are those the children get; `servers` run already. `tell` gets lines for people. `stopping` ends waits.
    """

    def __init__(
        self,
        settings: Settings,
        options: Options,
        key: str,
        servers: list[ServerPart],
        tell: Callable[[str], None],
        stopping: threading.Event,
    ) -> None:
        self.settings = settings
        self.key = key
        self.flower: FlowerAccess | None = None
        self._tell = tell
        self._stopping = stopping
        self._tracing = open_tracing("orchestrator-dev")
        self._logs = settings.data_dir / "logs"
        self._run = secrets.token_hex(2)
        self._counts = options.counts()
        self._import_paths = import_paths(options.teams) if options.teams else []
        self._engine = make_engine(settings.database_url, pool_size=1, application="orchestrator dev")
        self._servers = servers
        self._watched = {part.name: self._watch(part) for part in servers}
        self._draining: list[tuple[ProcessPart, float]] = []
        self._unexpired: list[str] = []
        self._looked_at = 0.0
        self._drained: set[str] = set()
        """Workers that ended because they were told to, by whomever: they stay away until somebody scales again."""
        self._asked_at: float | None = None
        self._made: Counter[str] = Counter()
        self._changed = True
        forget_counts(settings.data_dir)

    # --- starting

    def start(self, flower: FlowerAccess | None) -> None:
        """Start the API, the loops, the workers and, where wanted, Flower."""
        self.flower = flower
        self._add(self._process("loops", ["orchestrator", "loops"], metrics=PortOfPart()))
        self._add(
            self._process("api", ["orchestrator", "api"], port=lambda: self.settings.listen_port, metrics=PortOfPart())
        )
        self._scale()
        if flower is not None:
            program = ["orchestrator", "flower"]
            self._add(self._process("flower", program, port=lambda: flower.port, extra=flower.environment))
        self._record()

    def await_ready(self) -> None:
        """Return once the API answers and every worker reports. Raises `Unavailable` with what a part said last."""
        deadline = time.monotonic() + READY_SECONDS
        with Client(self.settings.api_url, self.key) as client:
            while not self._stopping.is_set():
                self.tick()
                missing = self._missing(client)
                if not missing:
                    return
                self._refuse_hopeless()
                if time.monotonic() > deadline:
                    raise Unavailable(f"not ready after {READY_SECONDS:g} s: {', '.join(missing)} (logs: {self._logs})")
                self._stopping.wait(0.1)

    def _missing(self, client: Client) -> list[str]:
        try:
            running = {worker["name"] for worker in client.workers() if worker["state"] == "running"}
        except OrchestratorError:
            return ["api"]
        return [part.name for part in self._workers() if part.worker not in running]

    def _refuse_hopeless(self) -> None:
        """A part of ours that died three times before the start was complete will not come up by itself."""
        for watched in self._watched.values():
            part = watched.part
            if isinstance(part, ProcessPart) and part.name != "flower" and part.restarts.count >= 3:
                said = part.child.said().strip().splitlines()[-5:]
                raise Unavailable(
                    "\n".join([f"{part.name} does not start: it {part.ending()}; its last words:", *said])
                )

    # --- living

    def tick(self) -> None:
        """Look once: restart what died, let go of what drained, scale to what was asked. Quick, but for a restart."""
        for watched in list(self._watched.values()):
            if not self._has_drained(watched.part):
                self._changed = watched.tick() or self._changed
        self._let_go_of_drained()
        self._expire_dead_workers()
        if time.monotonic() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = time.monotonic()
            self._scale()
        if self._changed:
            self._record()

    def _has_drained(self, part: Part) -> bool:
        """A worker ends with status 0 only when it was told to end. Then it has not died, and is not started again."""
        if not isinstance(part, ProcessPart) or part.worker is None or part.alive() or part.child.exit_code != 0:
            return False
        del self._watched[part.name]
        self._drained.add(part.name)
        self._on_death(part)
        pool = part.name.rpartition("-")[0]
        self._tell(f"{part.name} has drained and stays away; `orchestrator scale {pool}=N` starts workers again")
        return True

    def _scale(self) -> None:
        asked_at = asked_when(self.settings.data_dir)
        if asked_at != self._asked_at:
            self._asked_at = asked_at
            self._drained.clear()
        for pool, count in merged_counts(self._counts, asked_counts(self.settings.data_dir)).items():
            wanted = [name for number in range(count) if (name := f"{pool}-{number + 1}") not in self._drained]
            present = [name for name in self._watched if name.rpartition("-")[0] == pool]
            for name in present:
                if name not in wanted:
                    self._drain(name)
            for name in wanted:
                if name not in present:
                    self._add(self._worker(name, pool))

    def _drain(self, name: str) -> None:
        part = self._watched.pop(name).part
        if isinstance(part, ProcessPart):
            self._tell(f"{name} is drained")
            part.child.send(signal.SIGTERM)
            self._draining.append((part, time.monotonic() + self._drain_seconds))
            self._changed = True

    def _let_go_of_drained(self) -> None:
        for part, deadline in list(self._draining):
            if part.alive() and time.monotonic() > deadline:
                part.child.send(signal.SIGKILL)
            elif not part.alive():
                self._draining.remove((part, deadline))
                self._on_death(part)
                self._changed = True

    def _on_death(self, part: Part) -> None:
        self._changed = True
        log.warning("%s %s", part.name, part.ending())
        if isinstance(part, ProcessPart) and part.worker is not None:
            part.child.settle()
            self._unexpired.append(part.worker)

    def forget_workers(self, names: list[str]) -> None:
        """Workers of an earlier run that are known to be gone: what they hold is free at the next look."""
        self._unexpired.extend(names)

    def _expire_dead_workers(self) -> None:
        """At once, not when a lease ends; again at the next look where the database does not answer just now."""
        while self._unexpired:
            try:
                recovered = expire_worker(self._engine, self._unexpired[0], tracing=self._tracing)
            except OrchestratorError as error:
                log.warning("%s not expired: %s", self._unexpired[0], error.text)
                return
            log.info("%s expired, %d steps recovered", self._unexpired.pop(0), len(recovered))

    # --- stopping

    def stop(self, hurry: threading.Event) -> None:
        """Drain the workers, then end everything else, the servers last. `hurry` skips the patience."""
        draining = [part.child for part, _ in self._draining]
        workers = self._workers()
        finish([*(part.child for part in workers), *draining], self._drain_seconds, hurry)
        self._unexpired.extend(part.worker for part in workers if part.worker and part.child.exit_code != 0)
        if all(part.alive() for part in self._servers):
            self._expire_dead_workers()
        self._engine.dispose()
        if self._tracing is not None:
            self._tracing.close()
        finish([part.child for part in self._processes() if part.worker is None], STOP_SECONDS, hurry)
        for part in reversed(self._servers):
            part.server.stop()

    @property
    def _drain_seconds(self) -> float:
        """A little more than a worker gives itself."""
        return self.settings.drain_seconds + 5.0

    # --- the parts

    def _processes(self) -> list[ProcessPart]:
        return [watched.part for watched in self._watched.values() if isinstance(watched.part, ProcessPart)]

    def _workers(self) -> list[ProcessPart]:
        return [part for part in self._processes() if part.worker is not None]

    def _watch(self, part: Part) -> Watched:
        return Watched(part, self._tell, self._on_death)

    def _add(self, part: ProcessPart) -> None:
        part.start()
        self._watched[part.name] = self._watch(part)
        self._changed = True

    def _worker(self, name: str, pool: str) -> ProcessPart:
        roles = [] if pool == ALL_ROLES else [pool]
        self._made[name] += 1
        again = f"-{self._made[name]}" if self._made[name] > 1 else ""
        prefix = f"{name}.{self._run}{again}"
        return self._process(name, ["workers", *roles], worker_prefix=prefix, metrics=PortOfPart())

    def _process(
        self,
        name: str,
        module: list[str],
        *,
        port: Callable[[], int | None] = lambda: None,
        worker_prefix: str | None = None,
        metrics: PortOfPart | None = None,
        extra: Callable[[], Mapping[str, str]] = dict,
    ) -> ProcessPart:
        def environment(worker: str) -> dict[str, str]:
            told = metrics.settle() if metrics is not None else ""
            # Only workers talk to models.
            model = {} if worker else {"model": "", "model_base_url": None, "model_api_key": None}
            own = {"worker_name": worker, "metrics_listen": told, **model}
            settings = self.settings.model_copy(update=own)
            return {**_inherited(self._import_paths), **child_environment(settings), **passed_on(os.environ), **extra()}

        return ProcessPart(
            name,
            [sys.executable, "-m", *module],
            environment,
            Path.cwd(),
            RotatingLog(self._logs / f"{name}.log"),
            port=port,
            worker_prefix=worker_prefix,
            metrics=metrics,
        )

    def _record(self) -> None:
        """Written again whenever a part changed; a full disk costs the news, not the server."""
        self._changed = False
        parts = [watched.part.shown() for watched in self._watched.values()]
        try:
            write_record(self.settings, self.key, self.flower.shown() if self.flower else None, parts)
            write_targets(self.settings.data_dir, parts)
        except OSError as error:
            log.warning("dev.json not written: %s", error.strerror)


def _inherited(import_paths: list[Path]) -> dict[str, str]:
    """Our environment without settings, which are given anew; the user's agents can be imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith((PREFIX, "FLOWER_"))}
    paths = [*map(str, import_paths), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONUNBUFFERED": "1", **({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})}
