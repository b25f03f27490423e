"""Steps that wait for slots: whose turn it is, who serves them, and when they go back."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from uuid import UUID

import pytest

from contracts.messages import StepRef
from workers.line import PATIENCE_SECONDS, Line, Parcel
from workers.slots import Slots

LATE_SECONDS = 10.0


class Waiting:
    """A line for two slots, what it had claimed, and what it sent back."""

    def __init__(self) -> None:
        self.slots = Slots(2)
        self.claimed: list[tuple[str, list[int], int]] = []
        """Parcel, steps, and the thread that served them."""
        self.returned: SimpleQueue[list[int]] = SimpleQueue()
        self.over: SimpleQueue[str] = SimpleQueue()
        self._names: dict[int, str] = {}
        self.line = Line(self.slots, self._claim, self.hand_back)

    def join(self, name: str, steps: range) -> Parcel:
        parcel = Parcel(lambda: self.over.put(name))
        self._names[id(parcel)] = name
        self.line.join(parcel, tuple(StepRef(id=UUID(int=step), epoch=1) for step in steps))
        return parcel

    def _claim(self, parcel: Parcel, refs: Sequence[StepRef]) -> None:
        self.claimed.append((self._names[id(parcel)], [ref.id.int for ref in refs], threading.get_ident()))

    def hand_back(self, refs: Sequence[StepRef]) -> None:
        self.returned.put([ref.id.int for ref in refs])

    @property
    def served(self) -> list[tuple[str, list[int]]]:
        return [(name, steps) for name, steps, _ in self.claimed]


@pytest.fixture
def waiting() -> Iterator[Waiting]:
    waiting = Waiting()
    yield waiting
    waiting.line.close()


def test_who_came_first_is_served_first_and_as_far_as_slots_are_free(waiting: Waiting) -> None:
    waiting.join("one", range(3))
    waiting.join("two", range(10, 12))
    assert waiting.served == [("one", [0, 1])]
    waiting.slots.give(2)
    assert waiting.served[1:] == [("one", [2]), ("two", [10])]
    waiting.slots.give(2)
    assert waiting.served[3:] == [("two", [11])]
    assert waiting.slots.free == 1


def test_nobody_overtakes(waiting: Waiting) -> None:
    """A slot that comes free at that moment is the first one's."""
    waiting.join("one", range(3))
    waiting.slots.on_free = lambda: None
    waiting.slots.give(1)
    waiting.join("two", range(10, 11))
    assert waiting.served[1:] == [("one", [2])]


def test_whoever_gives_a_slot_back_serves_the_line(waiting: Waiting) -> None:
    waiting.join("one", range(3))
    giver = threading.Thread(target=waiting.slots.give, args=[1])
    giver.start()
    giver.join()
    assert waiting.claimed[1] == ("one", [2], giver.ident)


def test_a_parcel_is_over_when_it_has_left_the_line_and_its_steps_are_settled(waiting: Waiting) -> None:
    parcel = waiting.join("one", range(3))
    parcel.remove()  # what was claimed first is settled
    assert waiting.over.empty()
    waiting.slots.give(1)
    assert waiting.over.empty()
    parcel.remove()
    assert waiting.over.get(timeout=0) == "one"


def test_what_has_waited_for_long_goes_back(waiting: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.line.PATIENCE_SECONDS", 0.05)
    parcel = waiting.join("one", range(5))
    assert waiting.returned.get(timeout=LATE_SECONDS) == [2, 3, 4]
    parcel.remove()
    assert waiting.over.get(timeout=LATE_SECONDS) == "one"
    waiting.slots.give(1)
    assert len(waiting.claimed) == 1


def test_with_each_slot_patience_begins_anew(waiting: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("workers.line.time", type("Clock", (), {"monotonic": staticmethod(lambda: now[0])}))
    waiting.join("one", range(4))
    now[0] += 0.9 * PATIENCE_SECONDS
    waiting.slots.give(1)
    now[0] += 0.9 * PATIENCE_SECONDS
    assert waiting.line._take_late() == []
    now[0] += 0.2 * PATIENCE_SECONDS
    assert [[ref.id.int for ref in entry.refs] for entry in waiting.line._take_late()] == [[3]]


def test_a_drain_sends_everybody_back_and_who_comes_after_it(waiting: Waiting) -> None:
    waiting.join("one", range(3))
    waiting.line.drain()
    assert waiting.returned.get(timeout=LATE_SECONDS) == [2]
    waiting.slots.give(2)
    waiting.join("two", range(10, 11))
    assert waiting.returned.get(timeout=LATE_SECONDS) == [10]
    assert waiting.served == [("one", [0, 1])]


def test_what_cannot_be_sent_back_is_over_all_the_same(waiting: Waiting) -> None:
    def fail(_: Sequence[StepRef]) -> None:
        raise ConnectionError("the database is away")

    waiting.line._hand_back = fail  # type: ignore[method-assign]
    waiting.line.drain()
    waiting.join("one", range(1))
    assert waiting.over.get(timeout=LATE_SECONDS) == "one"
    waiting.join("two", range(1))
    assert waiting.over.get(timeout=LATE_SECONDS) == "two"


def test_many_threads_at_once_lose_nothing(waiting: Waiting) -> None:
    done = threading.Semaphore(0)
    claim: Callable[[Parcel, Sequence[StepRef]], None] = waiting.line._claim

    def settle(parcel: Parcel, refs: Sequence[StepRef]) -> None:
        claim(parcel, refs)
        threading.Thread(target=end, args=(parcel, len(refs)), daemon=True).start()

    def end(parcel: Parcel, count: int) -> None:
        waiting.slots.give(count)
        parcel.remove()
        done.release(count)

    waiting.line._claim = settle
    for number in range(50):
        waiting.join(str(number), range(number * 10, number * 10 + 4))
    deadline = time.monotonic() + LATE_SECONDS
    for _ in range(200):
        assert done.acquire(timeout=max(0.0, deadline - time.monotonic()))
    assert sorted(step for _, steps, _ in waiting.claimed for step in steps) == sorted(
        number * 10 + step for number in range(50) for step in range(4)
    )
    assert {waiting.over.get(timeout=LATE_SECONDS) for _ in range(50)} == {str(number) for number in range(50)}
    assert waiting.slots.free == 2
