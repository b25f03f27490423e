"""Slots: how many steps one worker process may run at once. One is taken before a claim, given back when settled."""

import threading


class Slots:
    """Safe to use from several threads."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._changed = threading.Condition()

    @property
    def free(self) -> int:
        return self._free

    def take(self, wanted: int, *, timeout_seconds: float) -> int:
        """As many as are free, at most `wanted`; waits for the first. 0 when none came free in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._free > 0, timeout_seconds)
            return self._take(wanted)

    def take_free(self, wanted: int) -> int:
        """As many as are free right now, at most `wanted`."""
        with self._changed:
            return self._take(wanted)

    def give(self, count: int) -> None:
        if count:
            with self._changed:
                self._free += count
                self._changed.notify(count)

    def _take(self, wanted: int) -> int:
        taken = max(0, min(wanted, self._free))
        self._free -= taken
        return taken
