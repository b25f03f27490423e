"""What Celery calls handlers with: when each is over, whoever ends it."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from shared_state.broker.pool import LoopPool, outlive

Ended = tuple[int, object, float]


class Calls:
    """A pool, and what Celery was told of the ends."""

    def __init__(self) -> None:
        self.pool = LoopPool(10)
        self.accepted: list[int] = []
        self.ended: list[Ended] = []

    def call(self, handler: Callable[[], object]) -> None:
        """As Celery's tracer does: what a handler raises is a result as well."""

        def trace() -> Ended:
            try:
                return 0, repr(handler()), 0.0
            except Exception as error:
                return 1, error, 0.0

        self.pool.apply_async(
            trace, accept_callback=lambda pid, _: self.accepted.append(pid), callback=self.ended.append
        )


@pytest.fixture
def calls() -> Calls:
    return Calls()


def test_a_handler_that_returns_is_over(calls: Calls) -> None:
    calls.call(lambda: "done")
    ((failed, text, seconds),) = calls.ended
    assert (failed, text) == (0, "'done'")
    assert seconds >= 0
    assert len(calls.accepted) == 1


def test_a_handler_that_outlives_its_call_is_over_when_it_says_so_from_any_thread(calls: Calls) -> None:
    overs: list[Callable[[], None]] = []
    calls.call(lambda: overs.append(outlive()))
    assert calls.ended == []
    ender = threading.Thread(target=overs[0])
    ender.start()
    ender.join()
    assert [ended[0] for ended in calls.ended] == [0]


def test_its_seconds_are_those_until_its_end(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("shared_state.broker.pool.time.monotonic", lambda: now[0])
    overs: list[Callable[[], None]] = []
    calls.call(lambda: overs.append(outlive()))
    now[0] += 7
    overs[0]()
    assert calls.ended[0][2] == 7


def test_what_ends_before_the_call_returns_is_over_with_it(calls: Calls) -> None:
    seen: list[int] = []

    def handler() -> None:
        outlive()()
        seen.append(len(calls.ended))

    calls.call(handler)
    assert seen == [0]
    assert len(calls.ended) == 1


def test_a_handler_that_fails_is_over_once_whatever_outlives_it(calls: Calls) -> None:
    overs: list[Callable[[], None]] = []

    def handler() -> None:
        overs.append(outlive())
        raise ValueError("broken")

    calls.call(handler)
    assert [ended[0] for ended in calls.ended] == [1]
    overs[0]()
    assert len(calls.ended) == 1


def test_one_handler_does_not_end_another(calls: Calls) -> None:
    overs: list[Callable[[], None]] = []
    for _ in range(2):
        calls.call(lambda: overs.append(outlive()))
    overs[1]()
    assert len(calls.ended) == 1


def test_a_stop_waits_for_every_end(calls: Calls) -> None:
    overs: list[Callable[[], None]] = []
    for _ in range(2):
        calls.call(lambda: overs.append(outlive()))
    stopped = threading.Event()

    def stop() -> None:
        calls.pool.stop()
        stopped.set()

    threading.Thread(target=stop, daemon=True).start()
    overs[0]()
    assert not stopped.wait(0.1)
    overs[1]()
    assert stopped.wait(10)


def test_what_celery_makes_of_an_end_does_not_hurt_who_ended_it(calls: Calls) -> None:
    overs: list[Callable[[], None]] = []

    def fail(_: Any) -> None:
        raise ConnectionError("the broker is away")

    calls.pool.apply_async(lambda: (0, overs.append(outlive()), 0.0), callback=fail)
    overs[0]()
    calls.pool.stop()  # and it counts as ended


def test_a_call_that_breaks_off_is_not_waited_for(calls: Calls) -> None:
    def break_off() -> Ended:
        raise SystemExit

    with pytest.raises(SystemExit):
        calls.pool.apply_async(break_off, callback=calls.ended.append)
    calls.pool.stop()
    assert calls.ended == []
