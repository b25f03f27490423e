"""Rate limits by a clock that the test turns: handfuls, refusals that are remembered, and counting alone."""

import pytest

from contracts.errors import Unavailable
from orchestrator.api.problems import respond
from orchestrator.api.rates import RateLimits
from orchestrator.refusals import TooManyRequests
from shared_state.broker.buckets import Taken


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Shared:
    """A bucket by the test's clock, with a switch for the server's being away."""

    def __init__(self, clock: Clock, tokens: float) -> None:
        self.clock = clock
        self.tokens = tokens
        self.at = clock.now
        self.up = True
        self.asked = 0

    def take(self, key: str, *, wanted: int, rate: float, burst: int) -> Taken:
        self.asked += 1
        if not self.up:
            raise Unavailable("away")
        self.tokens = min(burst, self.tokens + (self.clock.now - self.at) * rate)
        self.at = self.clock.now
        taken = min(wanted, int(self.tokens))
        self.tokens -= taken
        return Taken(taken, max(0.0, (1 - self.tokens) / rate))


def spent(limits: RateLimits, key: str = "k", most: int = 10_000) -> int:
    """How many requests get through now."""
    for count in range(most):
        try:
            limits.spend(key)
        except TooManyRequests:
            return count
    return most


def test_the_burst_at_once_then_the_rate() -> None:
    clock = Clock()
    limits = RateLimits(Shared(clock, 5), rate=2, burst=5, clock=clock)
    assert spent(limits) == 5
    with pytest.raises(TooManyRequests) as refused:
        limits.spend("k")
    assert refused.value.retry_after_seconds == pytest.approx(0.5)
    clock.now += 0.49
    assert spent(limits) == 0
    clock.now += 0.02
    assert spent(limits) == 1
    clock.now += 60
    assert spent(limits) == 5


def test_busy_keys_ask_by_the_handful_and_refused_ones_not_at_all() -> None:
    clock = Clock()
    shared = Shared(clock, 1000)
    limits = RateLimits(shared, rate=1000, burst=1000, clock=clock)
    assert spent(limits) == 1000
    assert shared.asked == 1000 / 50 + 1
    asked = shared.asked
    assert spent(limits) == 0
    assert shared.asked == asked


def test_what_a_process_holds_unused_is_forgotten() -> None:
    """Else each of many processes would add its handful to the burst for ever."""
    clock = Clock()
    shared = Shared(clock, 1000)
    limits = RateLimits(shared, rate=1000, burst=1000, clock=clock)
    limits.spend("k")
    clock.now += 2
    shared.tokens = 0
    shared.at = clock.now
    assert spent(limits) == 0


def test_two_processes_share_one_rate() -> None:
    clock = Clock()
    shared = Shared(clock, 100)
    one, other = (RateLimits(shared, rate=100, burst=100, clock=clock) for _ in range(2))
    assert spent(one, most=60) + spent(other) == 100


def test_without_the_server_a_process_counts_alone_for_less_and_asks_again_later() -> None:
    clock = Clock()
    shared = Shared(clock, 100)
    shared.up = False
    limits = RateLimits(shared, rate=40, burst=100, clock=clock)
    assert spent(limits) == 25
    assert shared.asked == 1
    clock.now += 0.5
    assert spent(limits) == 5
    assert shared.asked == 1
    shared.up = True
    clock.now += 0.6
    assert spent(limits) == 100
    shared.up = False
    clock.now += 0.1
    assert spent(limits) <= 11


def test_without_any_server_it_is_never_open() -> None:
    clock = Clock()
    limits = RateLimits(None, rate=1, burst=2, clock=clock)
    assert spent(limits) == 1
    with pytest.raises(TooManyRequests) as refused:
        limits.spend("k")
    assert refused.value.retry_after_seconds == pytest.approx(4.0)
    assert spent(limits, "another") == 1


def test_zero_limits_nothing() -> None:
    assert spent(RateLimits(None, rate=0, burst=1)) == 10_000


def test_waiting_times_are_rounded_up_to_whole_seconds() -> None:
    """Who comes back when the header says must not be too early."""
    for seconds, header in ((0.01, "1"), (1.0, "1"), (1.01, "2"), (59.5, "60")):
        assert respond(TooManyRequests("too often", retry_after_seconds=seconds)).headers["retry-after"] == header
