"""How often a key may ask: a token bucket for each key, shared by all API processes.

The bucket is in Redis, where the messages go too: it holds nothing of record, and nobody may pay a commit per request
for being counted. A process takes tokens by the handful (what a key may have in `HANDFUL_SECONDS`), so that busy keys
cost next to nothing. Without Redis (it is away, or the broker is another) each process counts for itself, with a
fraction of the rate: never open.
"""

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from contracts.errors import Unavailable
from orchestrator.refusals import TooManyRequests
from shared_state.broker.buckets import Taken

HANDFUL_SECONDS = 0.05
ALONE_SHARE = 0.25
"""How much of its rate a key has in a process that cannot ask the others."""
_KEPT_SECONDS = 1.0
"""Tokens not used for so long are forgotten: their bucket has filled up again meanwhile."""
_ALONE_SECONDS = 1.0
"""How long a process goes on by itself before it asks the broker again."""
_KEYS_REMEMBERED = 10_000
_LOG = logging.getLogger("orchestrator.api")


class Buckets(Protocol):
    def take(self, key: str, *, wanted: int, rate: float, burst: int) -> Taken:
        """Raises `Unavailable`."""
        ...


@dataclass
class _Held:
    """`tokens` of a key in this process, good until `until`; with none, nothing is to be had before `until`."""

    tokens: int
    until: float


@dataclass
class _Own:
    """A bucket of this process alone."""

    tokens: float
    at: float


class RateLimits:
    """Safe to call from several threads. `rate` is in requests per second; 0 limits nothing."""

    def __init__(
        self, buckets: Buckets | None, *, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._buckets = buckets
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._lock = threading.Lock()
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._own: OrderedDict[str, _Own] = OrderedDict()
        self._alone_until = 0.0 if buckets is not None else math.inf

    def spend(self, key: str) -> None:
        """Count one request of this key. Raises `TooManyRequests` that says when the next may come."""
        if self._rate <= 0:
            return
        with self._lock:
            wait = self._spend_held(key)
            alone = self._clock() < self._alone_until
        if wait is None:
            wait = self._spend_own(key) if alone else self._fetch(key)
        if wait > 0:
            raise TooManyRequests(
                f"this key may ask {self._rate:g} times a second (rate_per_second), {self._burst} at once; "
                "wait as long as Retry-After says, or send tasks in lists",
                retry_after_seconds=wait,
            )

    def _spend_held(self, key: str) -> float | None:
        """Seconds to wait, 0 for a token; None where nothing is known."""
        held, now = self._held.get(key), self._clock()
        if held is None or now >= held.until:
            return None
        if held.tokens == 0:
            return held.until - now
        held.tokens -= 1
        if held.tokens == 0:
            del self._held[key]  # the next one asks anew
        return 0.0

    def _fetch(self, key: str) -> float:
        wanted = max(1, min(self._burst, int(self._rate * HANDFUL_SECONDS)))
        try:
            if self._buckets is None:
                raise AssertionError("unreachable")
            taken = self._buckets.take(key, wanted=wanted, rate=self._rate, burst=self._burst)
        except Unavailable as error:
            _LOG.warning("each API process counts requests by itself for now: %s", error.text)
            with self._lock:
                self._alone_until = self._clock() + _ALONE_SECONDS
            return self._spend_own(key)
        with self._lock:
            now = self._clock()
            if taken.tokens > 1:
                held = self._held.get(key)
                more = held.tokens if held is not None and now < held.until else 0
                self._remember(key, _Held(taken.tokens - 1 + more, now + _KEPT_SECONDS))
            elif taken.tokens == 0:
                self._remember(key, _Held(0, now + taken.wait_seconds))
        return 0.0 if taken.tokens else taken.wait_seconds

    def _remember(self, key: str, held: _Held) -> None:
        self._held[key] = held
        self._held.move_to_end(key)
        while len(self._held) > _KEYS_REMEMBERED:
            self._held.popitem(last=False)

    def _spend_own(self, key: str) -> float:
        rate, burst = self._rate * ALONE_SHARE, max(1.0, self._burst * ALONE_SHARE)
        with self._lock:
            now = self._clock()
            own = self._own.pop(key, None) or _Own(burst, now)
            own.tokens, own.at = min(burst, own.tokens + (now - own.at) * rate), now
            self._own[key] = own
            while len(self._own) > _KEYS_REMEMBERED:
                self._own.popitem(last=False)
            if own.tokens < 1:
                return (1 - own.tokens) / rate
            own.tokens -= 1
            return 0.0
