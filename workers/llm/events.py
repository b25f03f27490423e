"""Server-sent events of a model's answer: told apart, repeats dropped where they can be known, and the end recognised.

A stream that ends without its last event was cut, whether or not the connection was closed politely.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

_BLANK_LINE = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "message_stop", "error"})
_ONCE = frozenset({"message_start", "message_delta", "message_stop", "content_block_start", "content_block_stop"})
"""Events of the messages dialect of which two equal ones in a row are one event sent twice."""
_WHOLE = {
    "response.output_text": "text",
    "response.refusal": "refusal",
    "response.function_call_arguments": "arguments",
}
"""What the responses dialect sends in pieces (`.delta`) and then once more in whole (`.done`), under this name."""


class Damaged(Exception):
    """The events cannot be what the model sent: some are missing, or came twice."""


class Unreadable(Damaged):
    """An event that is no JSON."""


class Events:
    """Feed it bytes, get back whole events as they came, without the repeated ones.

    An event sent twice is known by its number (responses), by what makes each one different (`obfuscation`), or because
    it cannot come twice. Where none of these holds, as for a piece of text of most compatible servers, two equal events
    are two pieces of text: models do repeat themselves. Where the whole comes after its pieces, they are compared.
    """

    def __init__(self) -> None:
        self.ended = False
        """Whether the event has been seen after which nothing of the answer is missing."""
        self.count = 0
        self._rest = b""
        self._last = ""
        self._number = -1
        self._pieces: dict[tuple[str, object, object], str] = {}
        """What has come in pieces that are not numbered, by kind and place."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._rest += data
        while gap := _BLANK_LINE.search(self._rest):
            event, self._rest = self._rest[: gap.end()], self._rest[gap.end() :]
            if self._is_new(event):
                yield event

    def close(self) -> Iterator[bytes]:
        """What came after the last blank line: an event if it is a whole one. Half of one comes of a cut stream."""
        rest, self._rest = self._rest, b""
        with suppress(Unreadable):
            if rest.strip() and self._is_new(rest + b"\n\n"):
                yield rest + b"\n\n"

    def _is_new(self, event: bytes) -> bool:
        text = _data(event)
        if text is None:
            # By the standard nobody hears of it: a comment that keeps the connection open, or the name of an event
            # whose data never came. Client libraries read that one as empty JSON.
            return False
        if text == "[DONE]":
            self.ended = True
            return True
        try:
            data = json.loads(text)
        except ValueError:
            raise Unreadable(f"event {self.count + 1} is no JSON") from None
        if not isinstance(data, dict):
            return True
        number = data.get("sequence_number")
        if isinstance(number, int):
            if number <= self._number:
                return False
            if number > self._number + 1 and self._number >= 0:
                raise Damaged(f"event {number} came after event {self._number}")
            self._number = number
        elif text == self._last and _comes_once(data):
            return False
        else:
            self._compare(data)
        self._last = text
        self.count += 1
        self.ended = self.ended or _ends(data)
        return True

    def _compare(self, data: dict[str, Any]) -> None:
        """The pieces with the whole of them."""
        kind, _, what = str(data.get("type")).rpartition(".")
        if kind not in _WHOLE:
            return
        place = (kind, data.get("output_index"), data.get("content_index"))
        if what == "delta":
            self._pieces[place] = self._pieces.get(place, "") + str(data.get("delta"))
        elif what == "done" and self._pieces.pop(place, None) not in (None, data.get(_WHOLE[kind])):
            raise Damaged("the pieces are not the whole that came after them")


def begins_as_events(lead: bytes) -> bool:
    """Whether this may be how a stream of events begins, cut or not."""
    first = lead.lstrip()[:8]
    return any(first.startswith(name) or name.startswith(first) for name in _FIELDS)


def _data(event: bytes) -> str | None:
    lines = event.decode(errors="replace").splitlines()
    data = [line[5:].removeprefix(" ") for line in lines if line.startswith("data:")]
    return "\n".join(data) if data else None


def _ends(data: dict[str, Any]) -> bool:
    if data.get("type") in _ENDS or data.get("error"):
        return True
    if data.get("type") == "message_delta":
        return bool((data.get("delta") or {}).get("stop_reason"))
    return any(choice.get("finish_reason") for choice in data.get("choices") or () if isinstance(choice, dict))


def _comes_once(data: dict[str, Any]) -> bool:
    """Whether two of these in a row, equal to the byte, are one."""
    if "obfuscation" in data or data.get("type") in _ONCE:
        return True
    return (bool(data.get("usage")) and not data.get("choices")) or _ends(data)
