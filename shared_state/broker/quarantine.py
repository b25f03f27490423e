"""Where bytes that are not a message of ours wait until they are stored as dead letters.

A worker's event loop must never wait for Postgres, and a message must never be lost because Postgres is down. So a
rejected message is put here, without blocking; a thread of our own hands batches to the sink, again and again until
that worked; only then is the message acknowledged. What Redis has handed over for good already (raw bytes that could
not even become a message) is kept in memory, and pushed back to its queue if it could not be stored before the
process ends. When too much is waiting, `is_full` tells the consuming side to stop taking messages; nothing is dropped.

kill -9 of a worker loses what it had taken from Redis and not stored yet: the window that Redis's client leaves for
every message, good or bad.
"""

import hashlib
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from shared_state.crash_points import crash_point

RAW_LIMIT_BYTES = 1_000_000
TEXT_LIMIT = 1000
_HEADERS_LIMIT = 2000
_HEADERS_DEPTH = 20
_INTEGER_LIMIT = 2**63

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class BadMessage:
    """What was on `queue`, and why it is not a message. `reason` is a `message.*` code of `contracts.errors.CODES`.

    `raw` holds at most `RAW_LIMIT_BYTES`; `size_bytes` and `sha256` (hex) are those of all the bytes. `headers` is
    null where the bytes did not get far enough to have any. Nothing in it is verified, so it belongs to the tenant
    `default`, whatever it claims. Texts hold neither NUL nor lone surrogates: Postgres can store them.
    """

    queue: str
    reason: str
    text: str
    raw: bytes
    size_bytes: int
    sha256: str
    headers: Mapping[str, object] | None = None
    tenant: str = "default"


def describe(queue: str, reason: str, text: str, raw: bytes, headers: object = None) -> BadMessage:
    """Make a record that can be stored, whatever the bytes and headers are."""
    return BadMessage(
        queue=_storable_text(queue)[:200],
        reason=reason,
        text=_storable_text(text)[:TEXT_LIMIT],
        raw=raw[:RAW_LIMIT_BYTES],
        size_bytes=len(raw),
        sha256=hashlib.sha256(raw).hexdigest(),
        headers=_storable_headers(headers),
    )


class Counts:
    """What came in since the process started: accepted by queue, rejected by reason, dropped by name.

    Dropped is what could not even be kept: things said on the control channel, which is no queue.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accepted: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()

    def accept(self, queue: str) -> None:
        with self._lock:
            self._accepted[queue] += 1

    def reject(self, reason: str) -> None:
        with self._lock:
            self._rejected[reason] += 1

    def drop(self, name: str) -> None:
        with self._lock:
            self._dropped[name] += 1

    @property
    def accepted(self) -> dict[str, int]:
        with self._lock:
            return dict(self._accepted)

    @property
    def rejected(self) -> dict[str, int]:
        with self._lock:
            return dict(self._rejected)

    @property
    def dropped(self) -> dict[str, int]:
        with self._lock:
            return dict(self._dropped)


@dataclass(frozen=True)
class _Entry:
    bad: BadMessage
    weight: int
    on_stored: Callable[[], None] | None
    give_back: Callable[[], None] | None


class Quarantine:
    """Stores bad messages through `sink`, in batches, in the order they came, retrying until it works.

    `sink` takes a list of `BadMessage` and returns when they are durable; whatever it raises is retried.
    """

    def __init__(
        self,
        sink: Callable[[Sequence[BadMessage]], None],
        *,
        batch_size: int = 100,
        waiting_limit: int = 1000,
        waiting_bytes_limit: int = 64_000_000,
        retry_seconds: float = 0.2,
        retry_limit_seconds: float = 5.0,
    ) -> None:
        self.counts = Counts()
        self._sink = sink
        self._batch_size = batch_size
        self._waiting_limit = waiting_limit
        self._waiting_bytes_limit = waiting_bytes_limit
        self._retry_seconds = retry_seconds
        self._retry_limit_seconds = retry_limit_seconds
        self._changed = threading.Condition()
        self._entries: deque[_Entry] = deque()
        self._weight = 0
        self._stopping = False
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        # kombu keeps connections apart by the text of their options: it must not change with the content.
        return f"<Quarantine {id(self):#x}>"

    def __json__(self) -> str:
        """kombu's way of asking: a worker answers Flower's `stats` with the options of its connection."""
        return repr(self)

    @property
    def is_full(self) -> bool:
        """Whether the consuming side should stop taking messages for now."""
        return len(self._entries) >= self._waiting_limit or self._weight >= self._waiting_bytes_limit

    @property
    def waiting(self) -> int:
        return len(self._entries)

    def put(
        self,
        bad: BadMessage,
        *,
        on_stored: Callable[[], None] | None = None,
        give_back: Callable[[], None] | None = None,
    ) -> None:
        """Take one bad message; never blocks and never refuses.

        `on_stored` runs on the quarantine's thread once it is durable. `give_back` is for what the broker does not
        hold any more: it must put the message back, and runs if this process ends before it could be stored.
        """
        self.counts.reject(bad.reason)
        _log.warning("message rejected", queue=bad.queue, reason=bad.reason, text=bad.text, size_bytes=bad.size_bytes)
        with self._changed:
            stopped = self._stopping
            if not stopped:
                self._entries.append(_Entry(bad, bad.size_bytes, on_stored, give_back))
                self._weight += bad.size_bytes
                self._start()
                self._changed.notify_all()
        if stopped and give_back is not None:
            _quietly(give_back, "message not given back")

    def stop(self, timeout_seconds: float) -> int:
        """Store what waits, for so long at most, then give back the rest. Returns how many were not stored."""
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._entries, timeout=max(0.0, deadline - time.monotonic()))
            left, self._entries, self._weight = tuple(self._entries), deque(), 0
        for entry in left:
            if entry.give_back is not None:
                _quietly(entry.give_back, "message not given back")
        return len(left)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="quarantine", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        failures = 0
        while True:
            # One by one after a failure: a single record that cannot be stored must not hold up the others.
            batch = self._wait_for_batch(1 if failures else self._batch_size)
            if not batch:
                return
            try:
                self._sink([entry.bad for entry in batch])
            except Exception as error:
                failures += 1
                _log.warning("bad messages not stored yet", waiting=len(self._entries), error=type(error).__name__)
                self._move_to_end(batch)
                self._pause(min(self._retry_limit_seconds, self._retry_seconds * 2.0 ** min(failures - 1, 10)))
            else:
                failures = 0
                crash_point("C41")
                self._forget(batch)
                for entry in batch:
                    if entry.on_stored is not None:
                        _quietly(entry.on_stored, "message stored but not acknowledged")

    def _wait_for_batch(self, size: int) -> tuple[_Entry, ...]:
        """Look at the oldest entries without taking them. Empty once stopping with nothing left."""
        with self._changed:
            self._changed.wait_for(lambda: self._entries or self._stopping)
            return tuple(self._entries[index] for index in range(min(size, len(self._entries))))

    def _move_to_end(self, batch: tuple[_Entry, ...]) -> None:
        with self._changed:
            for entry in batch:
                if entry in self._entries:
                    self._entries.remove(entry)
                    self._entries.append(entry)

    def _forget(self, batch: tuple[_Entry, ...]) -> None:
        with self._changed:
            for entry in batch:
                if entry in self._entries:
                    self._entries.remove(entry)
                    self._weight -= entry.weight
            self._changed.notify_all()

    def _pause(self, seconds: float) -> None:
        with self._changed:
            if not self._stopping:
                self._changed.wait_for(lambda: self._stopping, timeout=seconds)
            else:
                self._changed.wait(timeout=min(seconds, self._retry_seconds))


def _quietly(call: Callable[[], None], complaint: str) -> None:
    """Run a callback of the broker's side, which may fail in any way: the quarantine's thread must survive it."""
    try:
        call()
    except Exception as error:
        _log.warning(complaint, error=repr(error)[:500])


def _storable_text(text: str) -> str:
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _storable_headers(headers: object) -> dict[str, object] | None:
    if not isinstance(headers, Mapping):
        return None
    items = list(headers.items())[:100]
    return {_storable_text(str(name))[:200]: _storable(value, _HEADERS_DEPTH) for name, value in items}


def _storable(value: object, depth: int) -> object:
    """The value as plain JSON that Postgres accepts, cut where it is too deep or too long."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < _INTEGER_LIMIT:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, str):
        return _storable_text(value[:_HEADERS_LIMIT])
    if depth > 0 and isinstance(value, Mapping):
        return {_storable_text(str(name))[:200]: _storable(item, depth - 1) for name, item in list(value.items())[:100]}
    if depth > 0 and isinstance(value, list | tuple):
        return [_storable(item, depth - 1) for item in value[:100]]
    return f"({type(value).__name__})"
