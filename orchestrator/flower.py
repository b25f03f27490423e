"""Flower as one may leave it running: whoever does not know the password gets 401 on every path, and nobody can do
anything but look.

Flower itself leaves `/metrics`, `/healthcheck` and its static files open, and answers control actions with a refusal
each by itself. Here one door stands before all of it, and lets looking through.
"""

import base64
import hmac
import logging
import signal
import socket
from contextlib import suppress
from http import HTTPStatus

from flower.app import Flower
from flower.options import options
from flower.urls import settings as flower_settings
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, HTTPServerRequest, ResponseStartLine

from contracts.errors import Misconfigured
from shared_state.broker.app import make_app
from shared_state.settings import Settings

MAX_TASKS = 10_000
MAX_BODY_BYTES = 100_000
_UNANSWERED = frozenset({"conf"})
"""What our workers do not tell anybody who reaches the broker (shared_state/broker/consumer.py)."""
_LOOKING = frozenset({"GET", "HEAD"})
_TABLE = "/tasks/datatable"
"""The one thing that Flower's pages ask for by POST: the list of messages, whose filter is too long for an address."""


class GuardedFlower(Flower):
    def __init__(self, settings: Settings) -> None:
        """Raises `Misconfigured` without a password."""
        self._credentials = _credentials(settings)
        options.basic_auth = [self._credentials]
        options.read_only = True
        options.persistent = False
        options.max_tasks = MAX_TASKS
        super().__init__(options=options, capp=make_app(settings), **flower_settings)
        questions = self.inspector.inspect_methods
        self.inspector.inspect_methods = tuple(each for each in questions if each not in _UNANSWERED)

    def find_handler(self, request: HTTPServerRequest, **kwargs: object) -> HTTPMessageDelegate:
        """Before any handler of Flower's sees the request; what is refused is not kept in memory either."""
        if not self._may_look(request.headers.get("Authorization")):
            return _Refusal(request, HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": 'Basic realm="flower"'})
        if request.method not in _LOOKING and (request.method, request.path) != ("POST", _TABLE):
            return _Refusal(request, HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": ", ".join(sorted(_LOOKING))})
        delegate: HTTPMessageDelegate = super().find_handler(request, **kwargs)
        return delegate

    def _may_look(self, authorization: str | None) -> bool:
        scheme, _, shown = (authorization or "").partition(" ")
        if scheme.lower() != "basic":
            return False
        with suppress(ValueError):
            return hmac.compare_digest(base64.b64decode(shown.strip()), self._credentials.encode())
        return False


class _Refusal(HTTPMessageDelegate):
    def __init__(self, request: HTTPServerRequest, status: HTTPStatus, headers: dict[str, str]) -> None:
        self._request = request
        self._status = status
        self._headers = headers

    def finish(self) -> None:
        body = f"{self._status.phrase}\n".encode()
        headers = HTTPHeaders({**self._headers, "Content-Type": "text/plain", "Content-Length": str(len(body))})
        connection = self._request.connection
        if connection is not None:
            line = ResponseStartLine("", self._status.value, self._status.phrase)
            connection.write_headers(line, headers, b"" if self._request.method == "HEAD" else body)
            connection.finish()


def run_flower(settings: Settings, listener: socket.socket) -> None:
    """Until SIGTERM or SIGINT. Raises `Misconfigured` without a password."""
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    flower = GuardedFlower(settings)
    listener.setblocking(False)
    HTTPServer(flower, max_body_size=MAX_BODY_BYTES).add_socket(listener)

    def stop(*_: object) -> None:
        flower.io_loop.add_callback_from_signal(flower.stop)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    flower.start()


def _credentials(settings: Settings) -> str:
    if settings.flower_password is None:
        raise Misconfigured(
            "flower_password: Flower shows itself to nobody without one; set ORCHESTRATOR_FLOWER_PASSWORD to at least "
            "16 characters"
        )
    return f"{settings.flower_user}:{settings.flower_password.get_secret_value()}"
