"""Leases: one thread lengthens all that this worker process holds, and stops work whose lease it cannot keep.

Work is stopped for one of three reasons: its task was cancelled, its lease was lost (somebody else moved on, or
Postgres has not answered for so long that somebody may soon), or this worker must stop. The lease's age is measured
by this process's monotonic clock from before the call that lengthened it, so it never outlives Postgres's view of it.
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

import structlog
from sqlalchemy import Engine

from contracts.assignments import Assignment
from contracts.errors import Unavailable
from shared_state.attempts import Held, extend

log = structlog.get_logger("heartbeat")

SAFE_SHARE = 0.8
"""Work stops when its lease has not been lengthened for this share of it."""


class StopReason(StrEnum):
    CANCELLED = "cancelled"
    LOST = "lost"
    STOPPED = "stopped"


@dataclass(eq=False)
class Lease:
    """One attempt's lease. `stop` is set, after `reason`, when its work must end at once."""

    step_id: UUID
    epoch: int
    confirmed_at: float
    stop: threading.Event = field(default_factory=threading.Event)
    reason: StopReason | None = None
    progress: str | None = None

    def note(self, text: str, fraction: float | None = None) -> None:
        """Keep the newest progress; it is written with the next heartbeat, not by itself."""
        self.progress = json.dumps({"text": text[:500].replace("\x00", ""), "fraction": fraction})

    def end(self, reason: StopReason) -> None:
        if self.reason is None:
            self.reason = reason
        self.stop.set()


class Heartbeat:
    """Holds the leases of one worker process."""

    def __init__(self, engine: Engine, *, lease_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._leases: dict[tuple[UUID, int], Lease] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        # Well under the lease, and often enough that a cancel is felt soon.
        self._interval = min(lease_seconds / 4, 2.0)
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._watchdog = threading.Thread(target=self._watch, name="lease-watchdog", daemon=True)
        self._thread.start()
        self._watchdog.start()

    def hold(self, assignment: Assignment, *, since: float | None = None) -> Lease:
        """Keep the lease of a claim that was asked for at `since`, by this heartbeat's clock."""
        lease = Lease(assignment.step_id, assignment.epoch, self._clock() if since is None else since)
        with self._lock:
            self._leases[lease.step_id, lease.epoch] = lease
        return lease

    def release(self, lease: Lease) -> None:
        with self._lock:
            self._leases.pop((lease.step_id, lease.epoch), None)

    @property
    def count(self) -> int:
        return len(self._leases)

    def end_all(self, reason: StopReason) -> None:
        """Stop everything this process runs."""
        for lease in self._held():
            lease.end(reason)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=10)

    def _held(self) -> list[Lease]:
        with self._lock:
            return list(self._leases.values())

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            # A lease that was taken or lengthened just now can wait for the next beat; most steps are over by then.
            due = self._clock() - self._interval / 2
            leases = [lease for lease in self._held() if lease.confirmed_at < due]
            if leases:
                self._beat(leases)

    def _watch(self) -> None:
        """Apart from the thread that beats, because that one may be stuck in a call to a database that is gone."""
        while not self._stopped.wait(self._interval / 4):
            oldest = self._clock() - self._lease_seconds * SAFE_SHARE
            for lease in self._held():
                if lease.confirmed_at < oldest and not lease.stop.is_set():
                    log.warning("lease.unsafe", step_id=str(lease.step_id), epoch=lease.epoch)
                    lease.end(StopReason.LOST)

    def _beat(self, leases: list[Lease]) -> None:
        asked_at = self._clock()
        held = [Held(lease.step_id, lease.epoch, lease.progress) for lease in leases]
        try:
            kept = extend(self._engine, held, lease_seconds=self._lease_seconds)
        except Unavailable as error:
            log.warning("heartbeat.unavailable", text=error.text, leases=len(leases))
            return
        except Exception:  # the edge of a loop: leases that nobody lengthens would end every running step
            log.exception("heartbeat.failed", leases=len(leases))
            return
        for lease in leases:
            cancelled = kept.get((lease.step_id, lease.epoch))
            if cancelled is None:
                lease.end(StopReason.LOST)
            elif cancelled:
                lease.confirmed_at = asked_at
                lease.end(StopReason.CANCELLED)
            else:
                lease.confirmed_at = asked_at
