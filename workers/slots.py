"""Slots: how many steps one worker process may run at once. One is taken before a claim, given back when settled."""

import threading
from collections.abc import Callable


class Slots:
    """Safe to use from several threads."""

    def __init__(self, count: int) -> None:
        self.on_free: Callable[[], None] = lambda: None
        """Called when some were given back, by whoever gave them."""
        self._free = count
        self._lock = threading.Lock()

    @property
    def free(self) -> int:
        return self._free

    def take(self, wanted: int) -> int:
        """As many as are free, at most `wanted`."""
        with self._lock:
            taken = max(0, min(wanted, self._free))
            self._free -= taken
            return taken

    def give(self, count: int) -> None:
        if count:
            with self._lock:
                self._free += count
            self.on_free()
