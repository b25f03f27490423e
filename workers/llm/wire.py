"""The transport under every model client: it sees what came over the wire, which client libraries hide.

They take a stream that was cut politely for a finished one, and lose the text of an error that comes with status 200.
"""

import json
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Any

import httpx2

from workers.llm.events import Damaged, Events

_LEAD_BYTES = 2000
"""How much of something that is no answer is kept for the attempt's record."""


class Wrong(StrEnum):
    """What is wrong with an answer of status 200, or with a redirect."""

    NOT_JSON = "not_json"
    NO_ANSWER = "no_answer"
    """JSON, but no model's answer."""
    ERROR = "error"
    """JSON that says that there was an error."""
    CUT = "cut"
    REDIRECT = "redirect"


class Fault(httpx2.TransportError):
    """`said` is what came instead of an answer: the error's object, or the lead of the text. It may hold anything."""

    def __init__(self, wrong: Wrong, text: str, said: Any = None) -> None:
        super().__init__(text)
        self.wrong = wrong
        self.said = said


class Witness(httpx2.AsyncBaseTransport):
    """Passes on what is an answer, and raises `Fault` for what is none. Redirects are refused: a prompt goes where the
    team says and nowhere else."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        if response.status_code >= 400 or request.method != "POST":
            return response
        if 300 <= response.status_code < 400:
            await response.aclose()
            raise Fault(Wrong.REDIRECT, f"status {response.status_code}", response.headers.get("location"))
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "text/event-stream":
            return _replaced(response, stream=_Watched(response))
        try:
            body = await response.aread()
        finally:
            await response.aclose()
        check_whole(body)
        if _asks_for_stream(request):
            raise Fault(Wrong.NO_ANSWER, "one JSON object came where a stream was asked for", _lead(body))
        return _replaced(response, content=body, kind="application/json")

    async def aclose(self) -> None:
        await self._inner.aclose()


def check_whole(body: bytes) -> None:
    """Raises `Fault` unless these bytes can be a model's answer in one of the three dialects."""
    try:
        data = json.loads(body)
    except ValueError:
        raise Fault(Wrong.NOT_JSON, "the answer is not JSON", _lead(body)) from None
    if not isinstance(data, dict):
        raise Fault(Wrong.NO_ANSWER, "the answer is JSON, but no object", _lead(body))
    if data.get("error"):
        raise Fault(Wrong.ERROR, "the answer of status 200 is an error", data["error"])
    choices = data.get("choices")
    if choices or isinstance(data.get("output"), list) or isinstance(data.get("content"), list):
        return
    raise Fault(Wrong.NO_ANSWER, "the answer is JSON of another form", _lead(body))


class _Watched(httpx2.AsyncByteStream):
    def __init__(self, response: httpx2.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        events = Events()
        lead = b""
        try:
            async for data in self._response.aiter_bytes():
                lead += data[: _LEAD_BYTES - len(lead)]
                for event in events.feed(data):
                    yield event
            for event in events.close():
                yield event
        except Damaged as damaged:
            raise Fault(Wrong.CUT, f"parts of the answer are missing: {damaged}") from damaged
        if not events.ended and events.count == 0 and lead.strip():
            raise Fault(Wrong.NOT_JSON, "the stream holds no events", _lead(lead))
        if not events.ended:
            raise Fault(Wrong.CUT, "the stream ended before the answer did")

    async def aclose(self) -> None:
        await self._response.aclose()


def _replaced(
    response: httpx2.Response,
    *,
    stream: httpx2.AsyncByteStream | None = None,
    content: bytes | None = None,
    kind: str | None = None,
) -> httpx2.Response:
    """The same answer with a decoded body."""
    gone = ("content-encoding", "content-length", "transfer-encoding")
    headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in gone]
    if kind is not None:
        headers = [(name, value) for name, value in headers if name.lower() != "content-type"]
        headers.append(("content-type", kind))
    return httpx2.Response(
        response.status_code, headers=headers, stream=stream, content=content, extensions=response.extensions
    )


def _asks_for_stream(request: httpx2.Request) -> bool:
    try:
        return bool(json.loads(request.content).get("stream"))
    except (httpx2.RequestNotRead, ValueError, AttributeError):
        return False


def _lead(body: bytes) -> str:
    return body[:_LEAD_BYTES].decode(errors="replace")
