"""Wrapping and unwrapping a message: `unpack` reads what `pack` makes, and refuses every departure from it."""

import json
import uuid
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import CODES, InvalidMessage
from contracts.messages import STEPS_LIMIT, Message, SigningKeys, StepRef, encode
from contracts.topology import MessageKind
from shared_state.broker.frames import FRAME_LIMIT_BYTES, parse_frame
from shared_state.broker.wire import BODY_LIMIT_BYTES, CheckedEnvelope, Packed, message_in, pack, summary, unpack

KEYS = SigningKeys({"k": b"secret"})
ANOTHER_ID = "0b7c1f1e-5d0f-4a6b-9a55-3f3a0c1d2e4f"


def make(count: int = 1) -> Message:
    steps = tuple(StepRef(id=uuid.uuid4(), epoch=2) for _ in range(count))
    return Message(id=uuid.uuid4(), kind=MessageKind.EXECUTE, queue="execute", steps=steps)


def read(packed: Packed, **changes: Any) -> Message:
    given_: dict[str, Any] = {
        "queue": packed.queue,
        "body": packed.body,
        "headers": packed.headers,
        "content_type": "application/json",
        "content_encoding": "utf-8",
    }
    return unpack(**{**given_, **changes}, keys=KEYS).message


def reason_of(packed: Packed, **changes: Any) -> str:
    with pytest.raises(InvalidMessage) as caught:
        read(packed, **changes)
    assert caught.value.code in CODES
    return caught.value.code


def test_what_is_packed_is_unpacked() -> None:
    message = make(STEPS_LIMIT)
    packed = pack(message, KEYS, "test")
    assert read(packed) == message
    assert len(packed.body) < BODY_LIMIT_BYTES / 2


def test_only_what_was_checked_here_is_not_checked_again() -> None:
    message = make()
    strangers = SigningKeys({"k": b"another secret"})
    assert message_in(encode(message, KEYS), KEYS) == message
    for envelope in (encode(message, strangers), {**encode(message, KEYS), "queue": "review"}, {}, None, message):
        with pytest.raises(InvalidMessage):
            message_in(envelope, KEYS)
    checked = CheckedEnvelope(encode(message, KEYS), message)
    assert message_in(checked, KEYS) is message
    # As JSON it is an envelope like any other.
    assert json.loads(json.dumps(checked)) == encode(message, KEYS)
    assert not isinstance(json.loads(json.dumps(checked)), CheckedEnvelope)


def test_the_body_may_be_what_any_client_hands_over() -> None:
    packed = pack(make(), KEYS, "test")
    for body in (packed.body, packed.body.decode(), bytearray(packed.body), memoryview(packed.body)):
        assert read(packed, body=body)


def test_trace_context_travels_in_the_header_too() -> None:
    message = make().model_copy(update={"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"})
    packed = pack(message, KEYS, "test")
    assert packed.headers["traceparent"] == message.traceparent
    assert read(packed) == message


def test_what_brokers_add_is_accepted() -> None:
    packed = pack(make(), KEYS, "test")
    assert read(packed, headers={**packed.headers, "redelivered": True, "x-delivery-count": 3})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lang", "rb"),
        ("shadow", "other"),
        ("eta", "2030-01-01T00:00:00"),
        ("expires", 10),
        ("group", "g"),
        ("group_index", 1),
        ("retries", 1),
        ("retries", False),
        ("retries", "zz"),
        ("timelimit", None),
        ("timelimit", "abc"),
        ("timelimit", [1, 2]),
        ("parent_id", "p"),
        ("kwargsrepr", "{'a': 1}"),
        ("ignore_result", False),
        ("ignore_result", 1),
        ("replaced_task_nesting", 1),
        ("stamped_headers", ["a"]),
        ("stamps", {"a": 1}),
        ("id", ANOTHER_ID),
        ("id", 7),
        ("root_id", ANOTHER_ID),
        ("argsrepr", "x" * 201),
        ("argsrepr", None),
        ("origin", "\x1b[31m"),
        ("traceparent", 7),
        ("more", 1),
        ("task", 7),
    ],
)
def test_every_header_is_pinned(name: str, value: object) -> None:
    packed = pack(make(), KEYS, "test")
    assert reason_of(packed, headers={**packed.headers, name: value}) == "message.envelope"


def test_no_header_may_be_missing() -> None:
    packed = pack(make(), KEYS, "test")
    for name in packed.headers:
        headers = {other: value for other, value in packed.headers.items() if other != name}
        assert reason_of(packed, headers=headers) == "message.envelope", name


@pytest.mark.parametrize("task", ["orchestrator.plan", "orchestrator.destroy", "celery.chord"])
def test_the_handler_must_be_that_of_the_kind(task: str) -> None:
    packed = pack(make(), KEYS, "test")
    assert reason_of(packed, headers={**packed.headers, "task": task}) == "message.handler"


@pytest.mark.parametrize("content_type", [None, "", "application/x-python-serialize", "text/plain"])
def test_the_content_type_is_pinned(content_type: object) -> None:
    assert reason_of(pack(make(), KEYS, "test"), content_type=content_type) == "message.undecodable"


@pytest.mark.parametrize("encoding", [None, "", "binary", "utf-99", 7])
def test_the_content_encoding_is_pinned(encoding: object) -> None:
    assert reason_of(pack(make(), KEYS, "test"), content_encoding=encoding) == "message.undecodable"


def test_a_message_for_another_queue_is_refused() -> None:
    assert reason_of(pack(make(), KEYS, "test"), queue="review") == "message.envelope"


def test_a_large_body_is_refused_before_it_is_parsed() -> None:
    assert reason_of(pack(make(), KEYS, "test"), body=b" " * (BODY_LIMIT_BYTES + 1)) == "message.too_large"


@pytest.mark.parametrize("options", [{"callbacks": []}, {"chord": 1}, {"errbacks": None, "more": None}, None])
def test_options_are_pinned(options: object) -> None:
    packed = pack(make(), KEYS, "test")
    envelope = json.loads(packed.body)[0][0]
    full = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    changed = {**full, **options} if isinstance(options, dict) else options
    assert reason_of(packed, body=json.dumps([[envelope], {}, changed])) == "message.envelope"


@given(st.binary(max_size=200))
def test_any_body_is_refused_with_a_code(body: bytes) -> None:
    assert reason_of(pack(make(), KEYS, "test"), body=body) in CODES


@given(
    st.binary(max_size=200)
    | st.from_regex(r'\{"(headers|properties|body)": [\[\]{}0-9"a-z:, ]{0,40}\}').map(str.encode)
)
def test_any_frame_is_refused_with_a_code(raw: bytes) -> None:
    with pytest.raises(InvalidMessage) as caught:
        parse_frame(raw, "execute")
    assert caught.value.code in CODES


def test_a_large_frame_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(InvalidMessage) as caught:
        parse_frame(b"[" * (FRAME_LIMIT_BYTES + 1), "execute")
    assert caught.value.code == "message.too_large"


def test_the_summary_is_short_and_says_what_it_is() -> None:
    message = make(3)
    assert summary(message) == f"execute 3 steps {str(message.steps[0].id)[:13]}.. e2"
    assert "1 step " in summary(make())


def test_a_message_that_is_too_large_is_not_packed() -> None:
    with pytest.raises(ValueError, match="larger"):
        pack(make(), SigningKeys({"k" * 3000: b"secret"}), "test")


def test_a_long_origin_is_cut() -> None:
    packed = pack(make(), KEYS, "o" * 500)
    assert read(packed)
    assert replace(packed, headers={}).headers == {}
