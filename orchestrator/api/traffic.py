"""What an API process counts of its requests: how many, how long, by route and status."""

import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
PREFIX = "/v1"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
NOWHERE = "none"
"""The route of what leads nowhere or was refused before it was looked for: made-up addresses are no labels."""
_STREAM = b"text/event-stream"


class Traffic:
    """`registry` may be null: then nothing is shown."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        labels = ["method", "route"]
        self.requests = Counter(
            "orchestrator_http_requests", "Answered requests.", [*labels, "status"], registry=registry
        )
        self.seconds = Histogram(
            "orchestrator_http_request_seconds",
            "Time to the end of the answer; live event streams, which last, are not in it.",
            labels,
            buckets=BUCKETS,
            registry=registry,
        )
        self.in_progress = Gauge(
            "orchestrator_http_requests_in_progress", "Requests that are being answered.", registry=registry
        )


class CountTraffic:
    """The outermost layer, so that what others refuse is counted as well."""

    def __init__(self, app: ASGIApp, traffic: Traffic) -> None:
        self._app = app
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, streams = "500", False

        async def sending(message: Message) -> None:
            nonlocal status, streams
            if message["type"] == "http.response.start":
                status = str(message["status"])
                streams = any(
                    value.startswith(_STREAM) for name, value in message["headers"] if name == b"content-type"
                )
            await send(message)

        began = time.monotonic()
        self._traffic.in_progress.inc()
        try:
            await self._app(scope, receive, sending)
        finally:
            self._traffic.in_progress.dec()
            method = scope["method"] if scope["method"] in METHODS else NOWHERE
            route = route_of(scope)
            self._traffic.requests.labels(method, route, status).inc()
            if not streams:
                self._traffic.seconds.labels(method, route).observe(time.monotonic() - began)


def route_of(scope: Scope) -> str:
    """With the names of its parameters in place of what they were."""
    route: Any = scope.get("route")
    path = getattr(route, "path", None)
    if path is None:
        return NOWHERE
    # Of a route in a router that was included under a prefix the framework tells only the rest.
    return f"{PREFIX}{path}" if scope["path"].startswith(f"{PREFIX}/") and not path.startswith(PREFIX) else str(path)
