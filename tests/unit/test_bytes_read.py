"""What a person can read of bytes that were no message."""

import base64
import json
from typing import Any

import pytest

from shared_state.views.bytes_read import decoded

MESSAGE = {"version": 1, "kind": "execute", "steps": [{"id": "x", "epoch": 0}]}
CALL = json.dumps([[MESSAGE], {}, {"callbacks": None}])


def frame(body: str) -> bytes:
    return json.dumps({"body": body, "headers": {}, "properties": {}}).encode()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (frame(base64.b64encode(CALL.encode()).decode()), MESSAGE),
        (frame(CALL), MESSAGE),
        (CALL.encode(), MESSAGE),
        (json.dumps(MESSAGE).encode(), MESSAGE),
        (b"[1, 2, 3]", [1, 2, 3]),
        (frame("not json")[:], {"body": "not json", "headers": {}, "properties": {}}),
        (b"7", 7),
        (b"", None),
        (b"\xff\x00", None),
        (b"{", None),
        (b"[NaN]", None),
        (b'"\\ud800"', None),
        (b"9" * 5000, None),
        (b"9" * 30, None),
        (b"[" * 30 + b"]" * 30, None),
        (b"[" * 50_000, None),
        (b"[" + b"1," * 50_000 + b"1]", None),
    ],
)
def test_it_is_read_through_whatever_wrapping_is_intact(raw: bytes, expected: Any) -> None:
    assert decoded(raw) == expected
