"""Whether there is room for more work: the disk, the backlog, what a tenant has open, and whether Postgres answers.

Everything is a sample, at most a second old and never more than a fiftieth of the time spent on taking it, so that
asking costs a request nothing. What makes work is refused while there is no room; reads go on, and so does what ends
work (cancel, discard, answer).
"""

import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from sqlalchemy import Engine

from contracts.errors import Unavailable
from orchestrator.refusals import Overloaded, QuotaReached
from shared_state.engine import transaction
from shared_state.settings import Settings
from shared_state.statements import query

T = TypeVar("T")

SAMPLE_SECONDS = 1.0
_COST_FACTOR = 50.0
AWAY_SECONDS = 1.0
"""After Postgres did not answer, this long nobody waits for it again."""
ROOM_SECONDS = 10.0
"""When to come back for room on the disk or in the backlog."""
_TENANTS_REMEMBERED = 1000
_LOOPBACK = {None, "", "localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True)
class Room:
    """`free_disk_bytes` is null where the disk of the database cannot be seen from here."""

    ready_steps: int
    free_disk_bytes: int | None


class Sampled(Generic[T]):
    """The last value of a measurement, taken again by whoever asks when it is too old; the others do not wait."""

    def __init__(self, take: Callable[[], T], clock: Callable[[], float]) -> None:
        self._take = take
        self._clock = clock
        self._lock = threading.Lock()
        self._value: T | None = None
        self._stale_at = 0.0
        self.generation = 0

    def value(self) -> T:
        """Raises what taking it raises."""
        known = self._value
        if known is not None and (self._clock() < self._stale_at or not self._lock.acquire(blocking=False)):
            return known
        if known is None:
            self._lock.acquire()
        try:
            if self._value is None or self._clock() >= self._stale_at:
                began = self._clock()
                value = self._take()
                now = self._clock()
                self._stale_at = now + max(SAMPLE_SECONDS, _COST_FACTOR * (now - began))
                self._value = value
                self.generation += 1
            return self._value
        finally:
            self._lock.release()


class OpenTasks:
    """How many tasks a tenant has open: the sample, and what this process admitted since."""

    def __init__(self, engine: Engine, tenant: str, limit: int, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._admitted = 0
        self._generation = 0
        self._count = Sampled(lambda: _count_open(engine, tenant, limit + 1), clock)

    def admit(self, count: int) -> None:
        known = self._count.value()
        with self._lock:
            if self._generation != self._count.generation:
                self._generation, self._admitted = self._count.generation, 0
            if known + self._admitted + count > self._limit:
                raise QuotaReached(
                    f"{known + self._admitted} tasks are open, and {count} more would be over the {self._limit} of "
                    "max_open_tasks; send them when some have ended",
                    retry_after_seconds=ROOM_SECONDS,
                )
            self._admitted += count


class Vitals:
    """Safe to call from several threads."""

    def __init__(self, engine: Engine, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._disk: Path | None = None
        self._asked_for_disk = False
        self._away_until = 0.0
        self._open: OrderedDict[str, OpenTasks] = OrderedDict()
        self._room = Sampled(self._look, clock)

    def admit(self, engine: Engine, tenant: str, count: int) -> None:
        """Before `count` tasks are made. Raises `Overloaded` or `QuotaReached`, with when to come back."""
        self.require_room()
        with self._lock:
            mine = self._open.get(tenant)
            if mine is None:
                mine = self._open[tenant] = OpenTasks(engine, tenant, self._settings.max_open_tasks, self._clock)
            self._open.move_to_end(tenant)
            while len(self._open) > _TENANTS_REMEMBERED:
                self._open.popitem(last=False)
        mine.admit(count)

    def require_room(self) -> None:
        """Before anything that makes work. Raises `Overloaded`."""
        for trouble in self.troubles().values():
            if trouble is not None:
                raise Overloaded(f"{trouble}; what is read goes on, new work is taken later", ROOM_SECONDS)

    def troubles(self) -> dict[str, str | None]:
        """What is not well, by part; null where it is. Raises `Unavailable` without a database."""
        room, settings = self._room.value(), self._settings
        free, ready = room.free_disk_bytes, room.ready_steps
        return {
            "disk": None
            if free is None or free >= settings.min_free_disk_bytes
            else f"the database's disk has {free} bytes left, less than min_free_disk_bytes",
            "backlog": None
            if ready <= settings.max_ready_steps
            else f"more than {settings.max_ready_steps} steps are ready and have not begun (max_ready_steps)",
        }

    def note_away(self) -> None:
        """Postgres did not answer somebody: for a moment nobody else has to wait to find that out."""
        self._away_until = self._clock() + AWAY_SECONDS

    def require_database(self) -> None:
        """Raises `Unavailable` without waiting, shortly after somebody found Postgres away or its pool exhausted."""
        if self._clock() < self._away_until:
            raise Unavailable("the database did not answer just now, or is too busy; try again")

    def _look(self) -> Room:
        with transaction(self._engine) as connection:
            (row,) = query(
                connection,
                # What a pause or a limit holds was taken in as well, and comes back all at once.
                "select count(*) as n from (select from outbox union all select from parked limit %(limit)s) r",
                limit=self._settings.max_ready_steps + 1,
            )
            if not self._asked_for_disk:
                # Hidden from logins that may not know it; then the disk is watched by whoever runs the server.
                rows = query(connection, "select setting from pg_settings where name = 'data_directory'")
                if rows and self._engine.url.host in _LOOPBACK and Path(rows[0]["setting"]).is_dir():
                    self._disk = Path(rows[0]["setting"])
                self._asked_for_disk = True
        return Room(int(row["n"]), _free_bytes(self._disk))


def _free_bytes(path: Path | None) -> int | None:
    try:
        return None if path is None else shutil.disk_usage(path).free
    except OSError:
        return None


def _count_open(engine: Engine, tenant: str, limit: int) -> int:
    with transaction(engine) as connection:
        (row,) = query(
            connection,
            """select count(*) as n from (
                select from tasks where tenant_id = %(tenant)s and finished_at is null limit %(limit)s) o""",
            tenant=tenant, limit=limit,
        )  # fmt: skip
    return int(row["n"])
