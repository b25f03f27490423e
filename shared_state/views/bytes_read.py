"""What a person can read of bytes that were no message: the JSON inside, through whatever wrapping is intact."""

import base64
import binascii
import json
from typing import Any

_SIZE_LIMIT_BYTES = 65_536
_DEPTH_LIMIT = 20


def decoded(raw: bytes) -> Any:
    """The innermost JSON value that can be reached: frame, Celery body, signed message. Null where there is none."""
    value = _json(raw)
    if isinstance(value, dict) and isinstance(value.get("body"), str):
        inner = _json(_unwrapped(value["body"]))
        value = inner if inner is not None else value
    if isinstance(value, list) and len(value) == 3 and isinstance(value[0], list) and len(value[0]) == 1:
        value = value[0][0]
    return value


def _unwrapped(body: str) -> bytes:
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        return body.encode(errors="replace")


def _json(data: bytes) -> Any:
    """Null for what is no JSON, or is JSON that no answer of ours can carry."""
    if len(data) > _SIZE_LIMIT_BYTES:
        return None
    try:
        value = json.loads(data.decode("utf-8"))
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value if _fits(value, _DEPTH_LIMIT) else None


def _fits(value: Any, depth: int) -> bool:
    if isinstance(value, int) and abs(value) >= 2**63:
        return False
    if isinstance(value, dict | list):
        items = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_fits(item, depth - 1) for item in items)
    return True
