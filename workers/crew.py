"""The crew: threads that run attempts, as many as have something to do at the same time.

Whoever takes work and sees more of it calls one other, unless one that was called has not come yet. So a burst of short
attempts is done by one or two threads, without a switch for each, while attempts that wait for something get a thread
each. What an attempt's end brings is taken up by its own thread.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable

import structlog

Work = Callable[[], None]
log = structlog.get_logger("crew")


class Crew:
    """Threads are made when none is idle, and kept; the last to rest is the first to work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Work] = deque()
        self._idle: list[threading.Lock] = []
        self._here = threading.local()
        self._is_called = False
        """Whether a thread is on its way: it will look for work, and call the next if there is more."""
        self._closed = False

    def put(self, works: Iterable[Work]) -> None:
        """Have each called once, soon, in a thread of the crew. They must not raise, nor go on long after a `put`."""
        at_work = getattr(self._here, "at_work", False)
        with self._lock:
            self._waiting.extend(works)
            call = None if at_work else self._next_call()
        if call:
            call()

    def close(self) -> None:
        """Idle threads end; the others after what they are at."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for bell in idle:
            bell.release()

    def _next_call(self) -> Callable[[], None] | None:
        """How to get one more thread to work, if there is need; to be called without the lock, which this needs."""
        if not self._waiting or self._is_called:
            return None
        self._is_called = True
        return self._idle.pop().release if self._idle else self._hire

    def _hire(self) -> None:
        try:
            threading.Thread(target=self._serve, name="step", daemon=True).start()
        except RuntimeError as error:  # the machine has no more threads: who comes free does it, or who is called next
            with self._lock:
                self._is_called = False
            log.warning("crew.no_thread", error=str(error), waiting=len(self._waiting))

    def _serve(self) -> None:
        self._here.at_work = True
        bell = threading.Lock()
        bell.acquire()
        has_come = True
        while True:
            with self._lock:
                if has_come:
                    self._is_called = False
                work = self._waiting.popleft() if self._waiting else None
                call = self._next_call()
                if work is None:
                    if self._closed:
                        return
                    self._idle.append(bell)
            if call:
                call()
            if work:
                work()
            else:
                bell.acquire()
            has_come = work is None
