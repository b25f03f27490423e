"""The line: steps whose message has come wait here for free slots, in turn.

Whoever gives slots back serves the line, in its own thread: threads asleep, one for each message, would be woken one by
one for each slot. What has waited for long goes back, so that other workers get a chance; that alone has a thread.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanContext

from contracts.messages import StepRef
from shared_state.crash_points import crash_point
from workers.slots import Slots

PATIENCE_SECONDS = 0.25
"""How long the steps of a message wait here for the next free slot before other workers get a chance."""

log = structlog.get_logger("line")


class Parcel:
    """One delivery: over when it has left the line, and every step that it names or that was taken on after one of them
    is settled."""

    def __init__(self, over: Callable[[], None], span: SpanContext = INVALID_SPAN_CONTEXT) -> None:
        self.span = span
        """Of the handler, which its attempts are linked to: their parents are their tasks', and may be several."""
        self._over = over
        self._open = 1
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._open += count

    def remove(self) -> None:
        with self._lock:
            self._open -= 1
            is_over = not self._open
        if is_over:
            crash_point("C30")
            self._over()


@dataclass(eq=False)
class _Entry:
    parcel: Parcel
    refs: Sequence[StepRef]
    until: float


class Line:
    """Safe to use from several threads. `claim` is given steps that have slots, and never waits; `hand_back` those that
    go back, in a thread of the line's own."""

    def __init__(
        self,
        slots: Slots,
        claim: Callable[[Parcel, Sequence[StepRef]], None],
        hand_back: Callable[[Sequence[StepRef]], None],
    ) -> None:
        self._slots = slots
        self._claim = claim
        self._hand_back = hand_back
        self._entries: deque[_Entry] = deque()
        self._changed = threading.Condition()
        self._rests = self._draining = self._closed = False
        slots.on_free = self.serve
        self._thread = threading.Thread(target=self._watch, name="line", daemon=True)
        self._thread.start()

    def join(self, parcel: Parcel, refs: Sequence[StepRef]) -> None:
        """Behind those that wait already. Never waits."""
        entry = _Entry(parcel, refs, time.monotonic() + PATIENCE_SECONDS)
        with self._changed:
            self._entries.append(entry)
        self.serve()
        if entry.refs:
            with self._changed:
                if self._rests:
                    self._changed.notify()

    def serve(self) -> None:
        """Give the slots that are free to those that wait."""
        while self._entries:
            with self._changed:
                if not self._entries or self._draining:
                    return
                entry = self._entries[0]
                taken = self._slots.take(len(entry.refs))
                if not taken:
                    return
                refs, entry.refs = entry.refs[:taken], entry.refs[taken:]
                entry.until = time.monotonic() + PATIENCE_SECONDS
                if not entry.refs:
                    self._entries.popleft()
                is_last = not entry.refs
            entry.parcel.add(1)
            self._claim(entry.parcel, refs)
            if is_last:
                entry.parcel.remove()

    def drain(self) -> None:
        """Whoever waits, or comes from now on, goes back at once."""
        with self._changed:
            self._draining = True
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=10)

    def _watch(self) -> None:
        while True:
            with self._changed:
                late = self._take_late()
                while not late:
                    if self._closed:
                        return
                    self._rests = not self._entries
                    self._changed.wait(self._seconds_left())
                    self._rests = False
                    late = self._take_late()
            for entry in late:
                self._send_back(entry)

    def _take_late(self) -> list[_Entry]:
        now = time.monotonic()
        late = [entry for entry in self._entries if self._draining or entry.until <= now]
        for entry in late:
            self._entries.remove(entry)
        return late

    def _seconds_left(self) -> float | None:
        if not self._entries:
            return None
        return max(0.0, min(entry.until for entry in self._entries) - time.monotonic())

    def _send_back(self, entry: _Entry) -> None:
        try:
            self._hand_back(entry.refs)
        except Exception:  # the edge of a loop; what is published and never claimed is published again anyway
            log.exception("line.hand_back", steps=len(entry.refs))
        finally:
            entry.parcel.remove()
