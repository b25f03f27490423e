"""The span of a request: a child of the caller's, where it sent a `traceparent`; what its task hangs from."""

from opentelemetry.trace import SpanKind
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.api.traffic import METHODS, NOWHERE, PREFIX, route_of
from shared_state.telemetry import Tracing, note, note_failure, traceparent_of

HEADER = "traceparent"
_OTHER = "_OTHER"
"""The conventions' word for methods that people make up."""
_PROBES = (f"{PREFIX}/health", f"{PREFIX}/ready")


class TraceRequests:
    """Handlers find the request's own context in the header where the caller's stood: so what they write down for a
    task is what is sent to the collector, and they are the same with tracing and without."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _is_told(scope["path"]):
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in METHODS else _OTHER
        span = self._tracing.begin(
            method, Headers(scope=scope).get(HEADER), {"http.request.method": method}, kind=SpanKind.SERVER
        )
        MutableHeaders(scope=scope)[HEADER] = traceparent_of(span)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                note(span, {"http.response.status_code": message["status"]})
                if message["status"] >= 500:
                    note_failure(span, str(message["status"]))
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            route = route_of(scope)
            if route != NOWHERE:
                span.update_name(f"{method} {route}")
                note(span, {"http.route": route})
            span.end()


def _is_told(path: str) -> bool:
    """Probes come every few seconds and lead to nothing."""
    return path.startswith(f"{PREFIX}/") and path not in _PROBES
