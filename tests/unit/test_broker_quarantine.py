"""The quarantine: stores what is bad, again and again until it is stored, and loses nothing when it cannot."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_state.broker.quarantine import RAW_LIMIT_BYTES, BadMessage, Quarantine, describe


class Store:
    """A store that can be down, or refuse one record."""

    def __init__(self) -> None:
        self.batches: list[list[BadMessage]] = []
        self.down = False
        self.refused = b""
        self.calls = 0

    def __call__(self, bad: Sequence[BadMessage]) -> None:
        self.calls += 1
        if self.down or any(one.raw == self.refused for one in bad if self.refused):
            raise ConnectionError("down")
        self.batches.append(list(bad))

    @property
    def raws(self) -> list[bytes]:
        return [one.raw for batch in self.batches for one in batch]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def quarantine(store: Store) -> Iterator[Quarantine]:
    made = Quarantine(store, retry_seconds=0.01, retry_limit_seconds=0.05, waiting_limit=5, waiting_bytes_limit=1000)
    yield made
    made.stop(0.0)


def bad(raw: bytes = b"x") -> BadMessage:
    return describe("execute", "message.undecodable", "not JSON", raw)


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


def test_what_is_put_is_stored_then_acknowledged(store: Store, quarantine: Quarantine) -> None:
    acknowledged: list[int] = []
    quarantine.put(bad(), on_stored=lambda: acknowledged.append(len(store.raws)))
    wait_for(lambda: acknowledged)
    assert acknowledged == [1]
    wait_for(lambda: quarantine.waiting == 0)
    assert quarantine.counts.rejected == {"message.undecodable": 1}


def test_nothing_is_acknowledged_while_the_store_is_down(store: Store, quarantine: Quarantine) -> None:
    acknowledged: list[int] = []
    store.down = True
    for number in range(3):
        quarantine.put(bad(b"%d" % number), on_stored=lambda number=number: acknowledged.append(number))
    wait_for(lambda: store.calls >= 3)
    assert acknowledged == []
    assert quarantine.waiting == 3
    store.down = False
    wait_for(lambda: sorted(acknowledged) == [0, 1, 2])
    assert sorted(store.raws) == [b"0", b"1", b"2"]


def test_one_record_that_cannot_be_stored_does_not_hold_up_the_others(store: Store, quarantine: Quarantine) -> None:
    store.refused = b"poison"
    for raw in (b"poison", b"1", b"2", b"3"):
        quarantine.put(bad(raw))
    wait_for(lambda: sorted(store.raws) == [b"1", b"2", b"3"])
    assert quarantine.waiting == 1


def test_many_are_stored_in_few_batches() -> None:
    store, gate = Store(), threading.Event()

    def slow(records: Sequence[BadMessage]) -> None:
        gate.wait(10)
        store(records)

    quarantine = Quarantine(slow, batch_size=50)
    for number in range(101):
        quarantine.put(bad(b"%d" % number))
    gate.set()
    wait_for(lambda: len(store.raws) == 101)
    assert store.calls <= 4
    assert store.raws == [b"%d" % number for number in range(101)]


def test_it_is_full_by_count_or_by_bytes_but_refuses_nothing(store: Store, quarantine: Quarantine) -> None:
    store.down = True
    for _ in range(5):
        assert not quarantine.is_full
        quarantine.put(bad())
    assert quarantine.is_full
    quarantine.put(bad())
    store.down = False
    wait_for(lambda: len(store.raws) == 6)
    wait_for(lambda: not quarantine.is_full)
    store.down = True
    quarantine.put(bad(b"x" * 1000))
    assert quarantine.is_full


def test_what_could_not_be_stored_is_given_back_at_the_end(store: Store, quarantine: Quarantine) -> None:
    store.down = True
    back: list[str] = []
    quarantine.put(bad(), give_back=lambda: back.append("raw"))
    quarantine.put(bad(), on_stored=lambda: back.append("never"))
    assert quarantine.stop(0.1) == 2
    assert back == ["raw"]
    quarantine.put(bad(), give_back=lambda: back.append("late"))
    assert back == ["raw", "late"]


def test_the_end_waits_for_what_can_be_stored(store: Store, quarantine: Quarantine) -> None:
    store.down = True
    back: list[str] = []
    quarantine.put(bad(), give_back=lambda: back.append("raw"))
    wait_for(lambda: store.calls >= 2)
    threading.Timer(0.1, lambda: setattr(store, "down", False)).start()
    assert quarantine.stop(10.0) == 0
    assert back == []
    assert len(store.raws) == 1


def test_a_callback_that_fails_does_not_end_the_thread(store: Store, quarantine: Quarantine) -> None:
    def fail() -> None:
        raise RuntimeError("the connection is gone")

    quarantine.put(bad(b"1"), on_stored=fail)
    quarantine.put(bad(b"2"))
    wait_for(lambda: sorted(store.raws) == [b"1", b"2"])


def test_a_large_message_is_cut_but_measured_whole() -> None:
    raw = b"ab" * RAW_LIMIT_BYTES
    described = describe("execute", "message.too_large", "too large", raw)
    assert (len(described.raw), described.size_bytes) == (RAW_LIMIT_BYTES, len(raw))
    assert described.sha256 == hashlib.sha256(raw).hexdigest()
    assert described.tenant == "default"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(categories=None)) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(categories=None)), inner),
    max_leaves=20,
)


@given(values, st.text(st.characters(categories=None)))
def test_whatever_the_headers_are_postgres_can_store_them(headers: object, text: str) -> None:
    described = describe(text, "message.envelope", text, b"", headers)
    written = json.dumps([described.headers, described.text, described.queue], allow_nan=False, ensure_ascii=False)
    written.encode("utf-8")
    assert "\\u0000" not in written
    assert (described.headers is not None) == isinstance(headers, dict)


def test_deep_and_long_headers_are_cut() -> None:
    deep: Any = 1
    for _ in range(900):
        deep = [deep]
    described = describe("q", "message.envelope", "", b"", {"deep": deep, "long": "x" * 100_000, "number": 10**5000})
    assert len(json.dumps(described.headers)) < 10_000


def test_its_text_form_does_not_change_with_its_content(store: Store, quarantine: Quarantine) -> None:
    before = repr(quarantine)
    store.down = True
    quarantine.put(bad())
    assert repr(quarantine) == before
