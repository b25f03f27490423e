"""Looks at the invariants, every few seconds and at the end, by the code of `orchestrator verify`."""

import threading
import time
from collections import Counter

from sqlalchemy import Engine

from contracts.errors import OrchestratorError, Unavailable
from shared_state.verify import Violation, violations

FINAL_SECONDS = 20.0


class Looks:
    """`count` looks were answered; `missed` were not, because the database was away."""

    def __init__(self, engine: Engine, every_seconds: float = 3.0) -> None:
        self.count = 0
        self.missed = 0
        self.found: Counter[str] = Counter()
        """Violations by `I02: what it means: example`, each row once a look."""
        self._engine = engine
        self._every_seconds = every_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="looks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(40)

    def final(self) -> list[Violation]:
        """Safety and liveness, now: for when everything has come to rest.

        Connections of the pool may have been ended by the fault, each of which costs a try.
        """
        deadline = time.monotonic() + FINAL_SECONDS
        while True:
            try:
                return self._look(liveness=True)
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _run(self) -> None:
        wait_seconds = self._every_seconds
        while not self._stop.wait(wait_seconds):
            began = time.monotonic()
            try:
                self._look(liveness=False)
            except OrchestratorError:
                self.missed += 1
            # Looking reads whole tables: as they grow it must not become the load.
            wait_seconds = max(self._every_seconds, 4 * (time.monotonic() - began))

    def _look(self, *, liveness: bool) -> list[Violation]:
        found = [each for each in violations(self._engine) if liveness or each.kind == "safety"]
        self.count += 1
        for each in found:
            self.found[f"{each.invariant} {each.meaning}: {each.text}"] += 1
        return found
