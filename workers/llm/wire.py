"""The transport under every model client: it sees what goes over the wire, which client libraries hide.

They take a stream that was cut politely for a finished one, and lose the text of an error that comes with status 200.
Only the three dialects that it can read pass: what it cannot judge would be taken for an answer.
"""

import json
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Any

import httpx2

from workers.llm.events import Damaged, Events, Unreadable, begins_as_events

PATHS = ("/chat/completions", "/responses", "/messages")
_OWN_TOOLS = (None, "function", "custom")
_HOSTED_KEYS = ("mcp_servers", "web_search_options", "search_settings")
"""Of a request, beside its tools: what makes the provider itself run something."""
_LEAD_BYTES = 2000
"""How much of something that is no answer is kept for the attempt's record."""


class Wrong(StrEnum):
    """What is wrong with an answer of status 200, with a redirect, or already with the request."""

    UNSUPPORTED = "unsupported"
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
    team says and nowhere else. So are tools that the provider would run: no gate sees what they do."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        asked = _read_request(request)
        response = await self._inner.handle_async_request(request)
        if response.status_code >= 400:
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
        answer = read_whole(body)
        if asked.get("stream"):
            raise Fault(Wrong.NO_ANSWER, "one JSON object came where a stream was asked for", _lead(body))
        return _replaced(response, content=json.dumps(answer).encode(), kind="application/json")

    async def aclose(self) -> None:
        await self._inner.aclose()


def read_whole(body: bytes) -> dict[str, Any]:
    """A model's answer in one of the three dialects. Raises `Fault` for what can be none."""
    try:
        data = json.loads(body)
    except ValueError:
        raise Fault(Wrong.NOT_JSON, "the answer is not JSON", _lead(body)) from None
    if not isinstance(data, dict):
        raise Fault(Wrong.NO_ANSWER, "the answer is JSON, but no object", _lead(body))
    if data.get("error"):
        raise Fault(Wrong.ERROR, "the answer of status 200 is an error", data["error"])
    if isinstance(data.get("choices"), list) and data["choices"]:
        return _completed(data)
    if isinstance(data.get("output"), list) or isinstance(data.get("content"), list):
        return data
    raise Fault(Wrong.NO_ANSWER, "the answer is JSON of another form", _lead(body))


def _completed(data: dict[str, Any]) -> dict[str, Any]:
    """With what compatible servers leave out and the client libraries insist on: it says nothing that is not known."""
    for choice in data["choices"]:
        if not isinstance(choice, dict):
            continue
        choice["finish_reason"] = choice.get("finish_reason") or None
        message = choice.get("message")
        for call in (message.get("tool_calls") if isinstance(message, dict) else None) or ():
            if isinstance(call, dict) and isinstance(call.get("function"), dict):
                call["type"] = call.get("type") or "function"
                call["function"]["arguments"] = call["function"].get("arguments") or "{}"
    return data


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
        except Unreadable as unreadable:
            raise Fault(Wrong.NOT_JSON, str(unreadable), _lead(lead)) from unreadable
        except Damaged as damaged:
            raise Fault(Wrong.CUT, f"parts of the answer are missing: {damaged}") from damaged
        if not events.ended and not begins_as_events(lead):
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


def _read_request(request: httpx2.Request) -> dict[str, Any]:
    """Its body. Raises `Fault` for what is never sent."""
    path = request.url.path
    if request.method != "POST" or not path.endswith(PATHS):
        raise Fault(Wrong.UNSUPPORTED, f"{request.method} {path} is none of {', '.join(PATHS)}")
    body: dict[str, Any] = json.loads(request.content)
    kinds = {tool.get("type") for tool in body.get("tools") or ()} - set(_OWN_TOOLS)
    given = body.get("input")
    if isinstance(given, list):
        kinds |= {"additional_tools"} & {item.get("type") for item in given}
    kinds |= {key for key in _HOSTED_KEYS if body.get(key)}
    if kinds:
        raise Fault(Wrong.UNSUPPORTED, f"tools that the provider would run: {', '.join(sorted(kinds))}")
    return body


def _lead(body: bytes) -> str:
    return body[:_LEAD_BYTES].decode(errors="replace")
