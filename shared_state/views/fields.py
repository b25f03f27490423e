"""How stored values read in JSON: ids as text, times as RFC 3339 in UTC, failures without what is for operators."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from shared_state.shapes import ErrorText

Row = Mapping[str, Any]


def time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def time_or_none(moment: datetime | None) -> str | None:
    return None if moment is None else time(moment)


def id_or_none(value: UUID | None) -> str | None:
    return None if value is None else str(value)


def error(stored: Any, *, detailed: bool = False) -> ErrorText | None:
    """The stored failure; its detail (a traceback, a log) only for those who operate."""
    if stored is None:
        return None
    shown: ErrorText = {"code": stored["code"], "text": stored.get("text", "")}
    if stored.get("step") is not None:
        shown["step"] = stored["step"]
    if detailed and stored.get("detail") is not None:
        shown["detail"] = stored["detail"]
    return shown
