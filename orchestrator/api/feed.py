"""Live events: one poller per process reads the tail of the log for all watchers, and only while there are any."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from contracts.errors import OrchestratorError, Unavailable
from shared_state import events
from shared_state.engine import transaction
from shared_state.events import Event
from shared_state.statements import query
from shared_state.tenant_wall import TenantEngines

POLL_SECONDS = 0.075
_RETRY_SECONDS = 1.0
_PAGE = 1000
_BACKLOG_LIMIT = 2000
_WATCHERS_LIMIT = 1000
TERMINAL = frozenset({"task.succeeded", "task.failed", "task.cancelled"})
_LOG = logging.getLogger("orchestrator.api")


@dataclass(eq=False)
class Watch:
    """What one watcher has not been sent yet. `overflowed`: it fell behind, and must read from the log again."""

    task_id: UUID
    pending: deque[Event] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    overflowed: bool = False

    def offer(self, event: Event) -> None:
        if len(self.pending) >= _BACKLOG_LIMIT:
            self.pending.clear()
            self.overflowed = True
        if not self.overflowed:
            self.pending.append(event)
        self.arrived.set()


class Feed:
    """Hands every new event to those who watch its task. Lives on one event loop.

    The tail of the log is read for all tenants at once; everything else as the watcher's tenant.
    """

    def __init__(self, engine: Engine, tenants: TenantEngines) -> None:
        self._engine = engine
        self._tenants = tenants
        self._watches: dict[UUID, set[Watch]] = {}
        self._poller: asyncio.Task[None] | None = None
        self._started = asyncio.Event()
        self._stopping = asyncio.Event()

    @property
    def watcher_count(self) -> int:
        return sum(len(watches) for watches in self._watches.values())

    async def follow(
        self, tenant: str, task_id: UUID, after: str | None, heartbeat_seconds: float
    ) -> AsyncIterator[Event | None]:
        """The task's events after a cursor, until it ends; None whenever nothing happened for a while."""
        with self._watching(task_id) as watch:
            await self._started.wait()
            sent = _position(after)
            while not self._stopping.is_set():
                watch.overflowed = False
                async for event in self._read_log(tenant, task_id, after):
                    sent, after = _position(event.cursor), event.cursor
                    yield event
                if await run_in_threadpool(self._ended, tenant, task_id, sent):
                    return
                while not watch.overflowed and not self._stopping.is_set():
                    event_or_none = await _next(watch, heartbeat_seconds)
                    if event_or_none is None:
                        if not watch.overflowed:
                            yield None
                        continue
                    if _position(event_or_none.cursor) <= sent:
                        continue
                    sent, after = _position(event_or_none.cursor), event_or_none.cursor
                    yield event_or_none
                    if event_or_none.type in TERMINAL:
                        return

    async def stop(self) -> None:
        """End every stream; their clients resume elsewhere."""
        self._stopping.set()
        for watches in self._watches.values():
            for watch in watches:
                watch.arrived.set()
        if self._poller is not None:
            self._poller.cancel()

    @contextmanager
    def _watching(self, task_id: UUID) -> Iterator[Watch]:
        if self.watcher_count >= _WATCHERS_LIMIT:
            raise Unavailable("too many are watching events on this server; poll the events as JSON instead")
        watch = Watch(task_id)
        self._watches.setdefault(task_id, set()).add(watch)
        if self._poller is None or self._poller.done():
            self._started.clear()
            self._poller = asyncio.create_task(self._poll())
        try:
            yield watch
        finally:
            self._watches[task_id].discard(watch)
            if not self._watches[task_id]:
                del self._watches[task_id]

    async def _read_log(self, tenant: str, task_id: UUID, after: str | None) -> AsyncIterator[Event]:
        def page() -> list[Event]:
            with transaction(self._tenants.of(tenant)) as connection:
                return events.read(connection, tenant, task_id, after, _PAGE)

        while True:
            found = await run_in_threadpool(page)
            for event in found:
                yield event
                after = event.cursor
            if len(found) < _PAGE:
                return

    def _ended(self, tenant: str, task_id: UUID, sent: tuple[int, int]) -> bool:
        """Whether the task is over and the event that says so has been sent."""
        with transaction(self._tenants.of(tenant)) as connection:
            rows = query(
                connection,
                """
                select e.xid::text as xid, e.id from events e join tasks t on t.id = e.task_id
                where e.task_id = %(id)s and t.finished_at is not null and e.type = any(%(types)s)
                order by e.xid desc, e.id desc limit 1
                """,
                id=task_id,
                types=sorted(TERMINAL),
            )
        return bool(rows) and (int(rows[0]["xid"]), rows[0]["id"]) <= sent

    async def _poll(self) -> None:
        """Runs while anybody watches; a database that is away is asked again, and nothing is missed meanwhile."""
        after: str | None = None
        while self._watches:
            try:
                if after is None:
                    after = await run_in_threadpool(self._end_of_log)
                    self._started.set()
                after = await self._hand_out(after)
            except OrchestratorError as error:
                _LOG.warning("events cannot be read: %s", error.text)
                await asyncio.sleep(_RETRY_SECONDS)
            except Exception:  # the loop's edge: watchers must not hang because one read failed
                _LOG.exception("events cannot be read")
                await asyncio.sleep(_RETRY_SECONDS)
            await asyncio.sleep(POLL_SECONDS)

    async def _hand_out(self, after: str) -> str:
        def page() -> list[Event]:
            with transaction(self._engine) as connection:
                return events.tail(connection, after, _PAGE)

        while True:
            found = await run_in_threadpool(page)
            for event in found:
                for watch in self._watches.get(event.task_id, ()):
                    watch.offer(event)
                after = event.cursor
            if len(found) < _PAGE:
                return after

    def _end_of_log(self) -> str:
        with transaction(self._engine) as connection:
            return events.now_cursor(connection)


async def _next(watch: Watch, timeout_seconds: float) -> Event | None:
    """The next pending event; None after a while without any, or when the watch was only woken."""
    if not watch.pending:
        watch.arrived.clear()
        try:
            await asyncio.wait_for(watch.arrived.wait(), timeout_seconds)
        except TimeoutError:
            return None
    return watch.pending.popleft() if watch.pending else None


def _position(cursor: str | None) -> tuple[int, int]:
    if cursor is None:
        return (0, 0)
    xid, _, number = cursor.partition("-")
    return int(xid), int(number)
