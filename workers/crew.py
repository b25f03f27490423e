"""The crew: threads that run attempts, as many as have something to do at the same time.

Whoever takes work and sees more of it wakes one other. So a burst of short attempts is done by one or two threads,
without a switch for each, while attempts that wait for something get a thread each. What an attempt's end brings is
taken up by its own thread.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable

Work = Callable[[], None]


class Crew:
    """Threads are made when none is idle, and kept; the last to rest is the first to work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Work] = deque()
        self._idle: list[threading.Lock] = []
        self._here = threading.local()
        self._closed = False

    def put(self, works: Iterable[Work]) -> None:
        """Have each called once, soon, in a thread of the crew. They must not raise, nor go on long after a `put`."""
        at_work = getattr(self._here, "at_work", False)
        with self._lock:
            self._waiting.extend(works)
            call = self._next_call() if self._waiting and not at_work else None
        if call:
            call()

    def close(self) -> None:
        """Idle threads end; the others after what they are at."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for bell in idle:
            bell.release()

    def _next_call(self) -> Callable[[], None]:
        """How to get one more thread to work; to be called without the lock."""
        return self._idle.pop().release if self._idle else self._hire

    def _hire(self) -> None:
        threading.Thread(target=self._serve, name="step", daemon=True).start()

    def _serve(self) -> None:
        self._here.at_work = True
        bell = threading.Lock()
        bell.acquire()
        while True:
            with self._lock:
                work = self._waiting.popleft() if self._waiting else None
                call = self._next_call() if self._waiting else None
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
