"""What Celery calls handlers with: the event loop's own thread, which a handler must leave soon and may outlive.

Celery's thread pool keeps a thread asleep for each message in flight, and switches to it twice a message. Switching
costs as much as all else that a short step takes of a worker.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import structlog
from celery.concurrency.base import BasePool

_log = structlog.get_logger(__name__)
_current: ContextVar["_Call"] = ContextVar("call")


def outlive() -> Callable[[], None]:
    """Called by a handler, once: it will be over when what this returns is called, in any thread, and has returned.

    A handler that raises after that is over all the same.
    """
    return _current.get().outlive()


class LoopPool(BasePool):
    """Made by Celery; `limit` is how many messages may be in flight, which its consumer sees to."""

    body_can_be_buffer = True
    signal_safe = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._open = 0
        self._changed = threading.Condition()

    def on_apply(
        self,
        target: Callable[..., tuple[int, object, float]],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        callback: Callable[[tuple[int, object, float]], None] | None = None,
        accept_callback: Callable[[int, float], None] | None = None,
        **_: Any,
    ) -> None:
        call = _Call(lambda result: self._end(result, callback))
        with self._changed:
            self._open += 1
        token = _current.set(call)
        try:
            if accept_callback is not None:
                accept_callback(os.getpid(), call.began_at)
            result = target(*args, **(kwargs or {}))
        except BaseException:  # nobody would end it any more, and a stop would wait for ever
            self._forget()
            raise
        finally:
            _current.reset(token)
        call.returned(result)

    def on_stop(self) -> None:
        """Wait for every handler's end, as Celery's pools do."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open)

    def _end(
        self, result: tuple[int, object, float], callback: Callable[[tuple[int, object, float]], None] | None
    ) -> None:
        try:
            if callback is not None:
                callback(result)
        except Exception:  # the edge of a handler: whoever ends it has other work to go on with
            _log.exception("handler.end")
        finally:
            self._forget()

    def _forget(self) -> None:
        with self._changed:
            self._open -= 1
            self._changed.notify_all()


class _Call:
    """One handler's, from its call to its end."""

    def __init__(self, on_end: Callable[[tuple[int, object, float]], None]) -> None:
        self.began_at = time.monotonic()
        self._on_end = on_end
        self._lock = threading.Lock()
        self._left = 1
        """Ends that are still to come: of the call, and of what outlives it."""
        self._failed = 0
        self._text: object = None

    def outlive(self) -> Callable[[], None]:
        self._left += 1
        return self._end

    def returned(self, result: tuple[int, object, float]) -> None:
        """`result` is Celery's: whether it failed, with what or the text of what it returned, and its seconds."""
        self._failed, self._text, _ = result
        if self._failed:
            with self._lock:
                self._left = 1
        self._end()

    def _end(self) -> None:
        with self._lock:
            self._left -= 1
            is_over = self._left == 0
        if is_over:
            self._on_end((self._failed, self._text, time.monotonic() - self.began_at))
