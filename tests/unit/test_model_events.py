"""Events of a streamed answer: repeats are dropped where that can be known, gaps and the end are noticed."""

import json
from typing import Any

import pytest

from workers.llm.events import Damaged, Events, Unreadable, begins_as_events


def event(**data: Any) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


def piece(text: str, **data: Any) -> bytes:
    """Of the chat dialect."""
    return event(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": None}], **data)


def heard(*given: bytes, size: int = 7) -> list[bytes]:
    """What is let through, when the bytes come in small pieces."""
    events, whole = Events(), b"".join(given)
    found = [each for start in range(0, len(whole), size) for each in events.feed(whole[start : start + size])]
    return found + list(events.close())


ONCE = {
    "numbered": event(type="response.output_text.delta", sequence_number=3, delta="ha"),
    "filled": piece("ha", obfuscation="x7"),
    "usage": event(choices=[], usage={"prompt_tokens": 1}),
    "finish": event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]),
    "message_start": event(type="message_start", message={}),
    "content_block_start": event(type="content_block_start", index=0, content_block={"type": "tool_use"}),
    "content_block_stop": event(type="content_block_stop", index=0),
    "message_delta": event(type="message_delta", delta={"stop_reason": None}, usage={"output_tokens": 3}),
}


@pytest.mark.parametrize("name", sorted(ONCE))
def test_what_cannot_come_twice_comes_once(name: str) -> None:
    assert heard(ONCE[name], ONCE[name]) == [ONCE[name]]


@pytest.mark.parametrize(
    "twice",
    [
        piece("ha"),
        event(type="content_block_delta", index=0, delta={"type": "text_delta", "text": "ha"}),
    ],
)
def test_what_a_model_may_say_twice_is_heard_twice(twice: bytes) -> None:
    assert heard(twice, twice) == [twice, twice]


@pytest.mark.parametrize("silent", [b": ping\n\n", b"event: response.completed\n\n", b"event: response.comp"])
def test_what_has_no_data_is_no_event(silent: bytes) -> None:
    """Least of all the name of one where the stream was cut: client libraries take it for an event of empty data."""
    assert heard(piece("ha"), silent) == [piece("ha")]


def test_an_earlier_number_is_an_event_again_and_a_gap_is_damage() -> None:
    first, second, third = (event(sequence_number=number, delta=str(number)) for number in (0, 1, 2))
    assert heard(first, second, first, third) == [first, second, third]
    with pytest.raises(Damaged, match="event 2 came after event 0"):
        heard(first, third)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("output_text", "text"), ("refusal", "refusal"), ("function_call_arguments", "arguments")],
)
def test_pieces_that_are_not_numbered_have_to_be_the_whole_that_comes_after_them(kind: str, name: str) -> None:
    def spoken(text: str, place: int) -> bytes:
        return event(type=f"response.{kind}.delta", output_index=place, content_index=0, delta=text)

    def whole(text: str, place: int) -> bytes:
        return event(type=f"response.{kind}.done", output_index=place, content_index=0, **{name: text})

    good = [spoken("ha", 0), spoken("ha", 0), spoken("no", 1), whole("haha", 0), whole("no", 1)]
    assert heard(*good) == good
    for bad in (
        [spoken("ha", 0), *good],
        good[1:],
        [*good[:2], *good[3:4], whole("", 1), spoken("x", 1), whole("y", 1)],
    ):
        with pytest.raises(Damaged, match="whole"):
            heard(*bad)
    assert heard(whole("ha", 0)) == [whole("ha", 0)], "where no pieces were sent there is nothing to compare"


@pytest.mark.parametrize("gap", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_every_kind_of_line_end_separates_events(gap: bytes) -> None:
    given = [b'event: x\ndata: {"a": 1}', b"data: [DONE]"]
    assert heard(*(each + gap for each in given), size=1) == [each + gap for each in given]


@pytest.mark.parametrize(
    ("last", "ended"),
    [
        (b"data: [DONE]", True),
        (event(choices=[{"delta": {}, "finish_reason": "length"}]), True),
        (event(choices=[{"delta": {}, "finish_reason": ""}]), False),
        (event(choices=[{"delta": {}, "finish_reason": None}]), False),
        (event(type="response.completed", response={}), True),
        (event(type="response.incomplete", response={}), True),
        (event(type="response.output_item.done"), False),
        (event(type="message_delta", delta={"stop_reason": "end_turn"}), True),
        (event(type="message_delta", delta={"stop_reason": None}), False),
        (event(type="message_stop"), True),
        (event(error={"message": "x"}), True),
        (event(error=None), False),
        (b'data: {"choices": [{"finish_reason": "sto', False),
    ],
)
def test_the_end_of_an_answer_is_known_by_its_last_event(last: bytes, ended: bool) -> None:
    events = Events()
    for _ in [*events.feed(piece("ha")), *events.feed(last), *events.close()]:
        pass
    assert events.ended is ended


def test_an_event_that_is_no_json_is_told() -> None:
    with pytest.raises(Unreadable, match="event 2"):
        heard(piece("ha"), b"data: <html>\n\n")


@pytest.mark.parametrize(
    ("lead", "may_be"),
    [(b"", True), (b"dat", True), (b"\n: ping", True), (b"event: x", True), (b"<html>", False), (b"{", False)],
)
def test_a_page_is_no_beginning_of_events(lead: bytes, may_be: bool) -> None:
    assert begins_as_events(lead) is may_be
