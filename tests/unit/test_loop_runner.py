"""One loop: it ends when told to, also when it is told at an awkward moment."""

import threading

from orchestrator.loops.metrics import LoopMetrics
from orchestrator.loops.runner import Loop, run_loop


class StoppedWhileCleared(threading.Event):
    """Stop and wake-up come just before the loop forgets about earlier wake-ups."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__()
        self._stop = stop

    def clear(self) -> None:
        self._stop.set()
        super().clear()


def test_a_stop_that_comes_as_the_wake_up_is_cleared_ends_it() -> None:
    stop = threading.Event()
    loop = Loop("idle", lambda: False, every_seconds=3600.0)
    thread = threading.Thread(target=run_loop, args=(loop, stop, StoppedWhileCleared(stop), LoopMetrics()), daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
