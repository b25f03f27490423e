"""What the consumer does with a message apart from consuming it."""

import json
import uuid

from kombu import Message as Received

from contracts.messages import Message, SigningKeys, StepRef
from contracts.topology import MessageKind
from shared_state.broker.consumer import _hand_on, _raw_of
from shared_state.broker.wire import CONTENT_ENCODING, CONTENT_TYPE, pack, unpack

KEYS = SigningKeys({"k": b"secret"})


def test_what_was_handed_on_can_still_be_stored() -> None:
    """RabbitMQ's client has no frame of its own to fall back on."""
    steps = (StepRef(id=uuid.uuid4(), epoch=2),)
    packed = pack(Message(id=uuid.uuid4(), kind=MessageKind.EXECUTE, queue="execute", steps=steps), KEYS, "test")
    received = Received(body=packed.body, content_type=CONTENT_TYPE, content_encoding=CONTENT_ENCODING)
    assert _raw_of(received) == packed.body
    _hand_on(
        received,
        unpack(
            queue="execute",
            body=packed.body,
            headers=packed.headers,
            content_type=CONTENT_TYPE,
            content_encoding=CONTENT_ENCODING,
            keys=KEYS,
        ),
    )
    assert json.loads(_raw_of(received)) == json.loads(packed.body)
