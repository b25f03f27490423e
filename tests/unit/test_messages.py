"""The typed message: what is signed is what is read, and nothing else is ever accepted."""

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import CODES, InvalidMessage
from contracts.messages import (
    SIZE_LIMIT_BYTES,
    STEPS_LIMIT,
    Message,
    SigningKeys,
    StepRef,
    chunk_refs,
    decode,
    encode,
)
from contracts.topology import MessageKind

KEYS = SigningKeys({"new": b"the new secret", "old": b"the old secret"})

refs = st.builds(StepRef, id=st.uuids(), epoch=st.integers(0, 2**63 - 1))
messages = st.builds(
    Message,
    id=st.uuids(),
    kind=st.sampled_from(MessageKind),
    queue=st.from_regex(r"[a-z][a-z0-9_.-]{0,99}", fullmatch=True),
    steps=st.lists(refs, min_size=1, max_size=STEPS_LIMIT).map(tuple),
    traceparent=st.none() | st.just("00-" + "a" * 32 + "-" + "b" * 16 + "-01"),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def make() -> Message:
    return Message(id=uuid.uuid4(), kind=MessageKind.PLAN, queue="plan", steps=(StepRef(id=uuid.uuid4(), epoch=1),))


def reason_of(wire: object) -> str:
    with pytest.raises(InvalidMessage) as caught:
        decode(wire, KEYS)
    assert caught.value.code in CODES
    return caught.value.code


def signed(**changes: Any) -> dict[str, object]:
    return KEYS.sign({**make().model_dump(mode="json"), **changes})


@given(messages)
def test_what_is_encoded_is_decoded(message: Message) -> None:
    assert decode(encode(message, KEYS), KEYS) == message


def test_the_largest_message_fits() -> None:
    steps = tuple(StepRef(id=uuid.uuid4(), epoch=2**63 - 1) for _ in range(STEPS_LIMIT))
    keys = SigningKeys({"k" * 40: b"secret"})
    encode(Message(id=uuid.uuid4(), kind=MessageKind.EXECUTE, queue="q" * 100, steps=steps, traceparent="t" * 64), keys)


def test_a_message_that_would_be_too_large_is_not_made() -> None:
    with pytest.raises(ValueError, match="larger than"):
        encode(make(), SigningKeys({"k" * SIZE_LIMIT_BYTES: b"secret"}))


@given(json_values)
def test_anything_else_is_refused_and_never_crashes(value: object) -> None:
    reason_of(value)


@given(st.dictionaries(st.sampled_from(["version", "id", "kind", "queue", "steps", "traceparent"]), json_values))
def test_signed_nonsense_is_refused_with_a_code_or_read(changes: dict[str, object]) -> None:
    try:
        wire = signed(**changes)
    except ValueError:
        return
    assert outcome_of(wire) in {"read", *CODES}


def outcome_of(wire: object) -> str:
    try:
        decode(wire, KEYS)
    except InvalidMessage as error:
        return error.code
    return "read"


@pytest.mark.parametrize("field", ["version", "id", "kind", "queue", "steps", "traceparent", "key", "signature"])
def test_no_field_can_be_changed(field: str) -> None:
    assert reason_of({**encode(make(), KEYS), field: "another"}) == "message.signature"


def test_no_field_can_be_added() -> None:
    assert reason_of({**encode(make(), KEYS), "more": 1}) == "message.signature"


@pytest.mark.parametrize("key", [None, 7, [], "unknown", ""])
def test_the_key_must_be_one_of_ours(key: object) -> None:
    assert reason_of({**encode(make(), KEYS), "key": key}) == "message.signature"


@pytest.mark.parametrize("signature", [None, 7, [], "", "ä" * 64, "0" * 64])
def test_the_signature_must_be_right(signature: object) -> None:
    assert reason_of({**encode(make(), KEYS), "signature": signature}) == "message.signature"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 0}, "message.version"),
        ({"version": 2}, "message.version"),
        ({"version": True}, "message.version"),
        ({"version": 1.0}, "message.version"),
        ({"version": None}, "message.version"),
        ({"kind": "destroy"}, "message.kind"),
        ({"kind": ["plan"]}, "message.kind"),
        ({"kind": None}, "message.kind"),
        ({"steps": []}, "message.envelope"),
        ({"steps": [{"id": "x", "epoch": 1}]}, "message.envelope"),
        ({"steps": [{"id": str(uuid.uuid4()), "epoch": -1}]}, "message.envelope"),
        ({"steps": [{"id": str(uuid.uuid4()), "epoch": 2**63}]}, "message.envelope"),
        ({"steps": [{"id": str(uuid.uuid4()), "epoch": 1}] * (STEPS_LIMIT + 1)}, "message.envelope"),
        ({"queue": ""}, "message.envelope"),
        ({"queue": "q" * 101}, "message.envelope"),
        ({"more": 1}, "message.envelope"),
        ({"traceparent": "t" * 65}, "message.envelope"),
        ({"traceparent": "t" * 5000}, "message.too_large"),
    ],
)
def test_a_signature_does_not_excuse_the_content(changes: dict[str, object], reason: str) -> None:
    assert reason_of(signed(**changes)) == reason


FIRST_RELEASE = {
    "version": 1,
    "id": "01890a5d-ac96-774b-bcce-b302099a8057",
    "kind": "execute",
    "queue": "execute",
    "steps": [
        {"id": "01890a5d-ac96-774b-bcce-b302099a8058", "epoch": 3},
        {"id": "01890a5d-ac96-774b-bcce-b302099a8059", "epoch": 1},
    ],
    "traceparent": "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbb-01",
    "key": "test",
    "signature": "a597cfae2e87622983eebc552d293a53027d116cabe32309ada14af5391ee08e",
}
"""Made by the code of schema 0001. It may lie on a queue for as long as that release is served: never change it."""


def test_a_message_of_the_first_release_is_understood() -> None:
    read = decode(FIRST_RELEASE, SigningKeys({"test": b"a secret of the tests"}))
    assert (read.kind, read.queue, [ref.epoch for ref in read.steps]) == (MessageKind.EXECUTE, "execute", [3, 1])
    assert read.steps[0].id == uuid.UUID("01890a5d-ac96-774b-bcce-b302099a8058")
    assert read.traceparent == FIRST_RELEASE["traceparent"]


def test_a_message_of_today_is_what_the_first_release_understands() -> None:
    """Until no served release is left that knows version 1 only."""
    keys = SigningKeys({"test": b"a secret of the tests"})
    assert encode(decode(FIRST_RELEASE, keys), keys) == FIRST_RELEASE


def test_keys_rotate() -> None:
    old = SigningKeys({"old": b"the old secret"})
    new_only = SigningKeys({"new": b"the new secret"})
    message = make()
    assert encode(message, KEYS)["key"] == "new"
    assert decode(encode(message, old), KEYS) == message, "what was signed before the rotation is still read"
    assert decode(encode(message, KEYS), new_only) == message
    with pytest.raises(InvalidMessage):
        decode(encode(message, old), new_only)


def test_keys_do_not_show_their_secrets() -> None:
    assert "secret" not in repr(KEYS)


def test_there_must_be_a_key() -> None:
    with pytest.raises(ValueError, match="at least one"):
        SigningKeys({})


@given(st.lists(refs, max_size=60), st.integers(-5, 30))
def test_chunks_keep_every_reference_in_order(all_refs: list[StepRef], size: int) -> None:
    chunks = chunk_refs(all_refs, size)
    assert [ref for chunk in chunks for ref in chunk] == all_refs
    assert all(1 <= len(chunk) <= max(1, min(size, STEPS_LIMIT)) for chunk in chunks)
