"""How many requests are in progress: more than a process can do anything about are told to come back at once."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.api.problems import respond
from orchestrator.refusals import Overloaded

_PROBES = frozenset({"/health", "/ready", "/v1/health", "/v1/ready", "/metrics"})


class LoadLimit:
    """Live event streams do not count, for they have a limit of their own; nor do probes. Lives on one event loop."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _counts(scope):
            await self._app(scope, receive, send)
            return
        if self._count >= self._limit:
            error = Overloaded(f"{self._limit} requests are in progress here (max_requests); try again", 1.0)
            await respond(error)(scope, receive, send)
            return
        self._count += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._count -= 1


def _counts(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["path"] in _PROBES:
        return False
    return "text/event-stream" not in Headers(scope=scope).get("accept", "")
