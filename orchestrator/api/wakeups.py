"""Publishing off the request path: a broker that is slow or away costs no caller a moment.

A wakeup that is dropped here costs latency only: its outbox row stays, and the relay publishes it again.
"""

import logging
import queue
import threading
from collections.abc import Sequence

from shared_state import outbox
from shared_state.crash_points import crash_point
from shared_state.outbox import TOGETHER, MessagePublisher, Wakeup

_BACKLOG_LIMIT = 1000
_BATCH_LIMIT = 500
_LOG = logging.getLogger("orchestrator.api")


class WakeupSender:
    """One thread that publishes what requests committed, several requests' worth at a time."""

    def __init__(self, publisher: MessagePublisher) -> None:
        self._publisher = publisher
        self._backlog: queue.Queue[tuple[list[Wakeup], int] | None] = queue.Queue(_BACKLOG_LIMIT)
        self._thread = threading.Thread(target=self._run, name="wakeups", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def send(self, wakeups: Sequence[Wakeup], together: int = 1) -> None:
        """Never blocks and never raises. `together` is how many callers' they are: so many may share a message."""
        if not wakeups:
            return
        try:
            self._backlog.put_nowait((list(wakeups), together))
        except queue.Full:
            _LOG.warning("the broker is slow: %d wakeups are left to the relay", len(wakeups))

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Publish what is queued, within the time given."""
        try:
            self._backlog.put(None, timeout=timeout_seconds)
        except queue.Full:
            return
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while True:
            batch, together, last = self._next_batch()
            crash_point("C03", when=batch)
            try:
                if not outbox.publish(self._publisher, batch, together=min(together, TOGETHER)):
                    _LOG.warning("the broker does not answer: %d wakeups are left to the relay", len(batch))
            except Exception:  # the loop's edge: whatever one batch raises, the next must still go out
                _LOG.exception("publishing failed; the relay publishes it again")
            if last:
                return

    def _next_batch(self) -> tuple[list[Wakeup], int, bool]:
        batch: list[Wakeup] = []
        together = 1
        entry = self._backlog.get()
        while entry is not None:
            batch.extend(entry[0])
            together = max(together, entry[1])
            if len(batch) >= _BATCH_LIMIT:
                return batch, together, False
            try:
                entry = self._backlog.get_nowait()
            except queue.Empty:
                return batch, together, False
        return batch, together, True
