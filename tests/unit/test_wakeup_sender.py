"""What the API sends for its callers: how many steps travel in one message."""

from collections.abc import Sequence
from uuid import uuid4

import pytest

from contracts.messages import Message
from contracts.topology import MessageKind
from orchestrator.api.wakeups import WakeupSender
from shared_state.outbox import Wakeup


class Kept:
    def __init__(self) -> None:
        self.sizes: list[int] = []

    def publish(self, messages: Sequence[Message]) -> None:
        self.sizes += [len(message.steps) for message in messages]


@pytest.mark.parametrize(("callers", "sizes"), [(1, [1, 1, 1]), (2, [2, 1]), (3, [3]), (20, [3])])
def test_steps_of_one_caller_travel_apart_and_those_of_several_together(callers: int, sizes: list[int]) -> None:
    """Apart, so that every idle worker gets one; together where submissions are so many that they meet."""
    kept = Kept()
    sender = WakeupSender(kept)
    sender.send([Wakeup(uuid4(), 1, "execute", MessageKind.EXECUTE, None) for _ in range(3)], callers)
    sender.start()
    sender.stop()
    assert kept.sizes == sizes
