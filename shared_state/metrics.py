"""What a process tells of itself: its own counters and histograms, as Prometheus text on an address of its own.

Each process has its registry, so that several on one machine never count into each other. What is true of the whole
installation is not here: it is read from Postgres (`views/metrics.py`) and served by the API.
"""

import hmac
import threading
from collections.abc import Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET6
from socketserver import TCPServer
from typing import Any

import structlog
from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.pool import QueuePool

from contracts.errors import CODES, Misconfigured
from shared_state.settings import Listen, Settings

log = structlog.get_logger("metrics")

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
PATH = "/metrics"
OTHER = "other"
NAMES_LIMIT = 200
_REQUEST_SECONDS = 10


def make_registry() -> CollectorRegistry:
    """The registry of this process, with its processor time, memory and open files."""
    # Twice the series, for a time that Prometheus knows without.
    disable: Any = disable_created_metrics
    disable()
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


class Names:
    """Label values that people choose: the first `limit` as they are, later ones as `other`. Series stay few."""

    def __init__(self, limit: int = NAMES_LIMIT) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def label(self, name: str) -> str:
        if name not in self._known:
            if len(self._known) >= self._limit:
                return OTHER
            self._known.add(name)
        return name


def code_label(code: str) -> str:
    """Codes that agents made up count as one."""
    return code if code in CODES else f"agent.{OTHER}"


class Pools(Collector):
    """How many connections this process has in use, of how many it may have."""

    def __init__(self, registry: CollectorRegistry, pools: Iterable[tuple[str, Engine]]) -> None:
        self._pools = [(name, engine.pool) for name, engine in pools]
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        used = GaugeMetricFamily(
            "orchestrator_database_pool_in_use", "Connections of this process in use.", labels=["pool"]
        )
        size = GaugeMetricFamily(
            "orchestrator_database_pool_size", "Connections this process may have.", labels=["pool"]
        )
        for name, pool in self._pools:
            if isinstance(pool, QueuePool):
                used.add_metric([name], pool.checkedout())
                size.add_metric([name], pool.size())
        return [used, size]


def may_read(token: SecretStr | None, authorization: str | None) -> bool:
    """Whether an `Authorization` header shows the token; nobody may where there is none."""
    scheme, _, shown = (authorization or "").partition(" ")
    if token is None or scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(shown.strip().encode(), token.get_secret_value().encode())


class Endpoint:
    """`GET /metrics` of one process, in threads of its own; closed with `close`."""

    def __init__(self, listen: Listen, token: SecretStr | None, registry: CollectorRegistry) -> None:
        """Raises `Misconfigured` where it cannot listen."""
        try:
            self._server = _Server(listen, token, registry)
        except OSError as error:
            reason = error.strerror or str(error)
            raise Misconfigured(
                f"metrics_listen: cannot listen on {listen.host}:{listen.port} ({reason}); choose another port with "
                "ORCHESTRATOR_METRICS_LISTEN, or 0 for a free one"
            ) from None
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="metrics", daemon=True)
        self._thread.start()
        log.info("metrics.listening", host=listen.host, port=self.port)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def open_endpoint(settings: Settings, registry: CollectorRegistry) -> Endpoint | None:
    """Where the settings name no address there is none. Raises `Misconfigured`."""
    listen = settings.metrics_address
    return None if listen is None else Endpoint(listen, settings.metrics_token, registry)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listen: Listen, token: SecretStr | None, registry: CollectorRegistry) -> None:
        if ":" in listen.host:
            self.address_family = AF_INET6
        self.token = token
        self.registry = registry
        super().__init__((listen.host, listen.port), _Handler)

    def server_bind(self) -> None:
        """Without the reverse look-up of the host's name, which may take seconds where there is no DNS."""
        TCPServer.server_bind(self)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _REQUEST_SECONDS
    server_version = "orchestrator"
    sys_version = ""

    def do_GET(self) -> None:
        token = self.server.token
        if token is not None and not may_read(token, self.headers.get("Authorization")):
            self._answer(HTTPStatus.UNAUTHORIZED, b"show the metrics_token: Authorization: Bearer TOKEN\n")
        elif self.path.partition("?")[0] != PATH:
            self._answer(HTTPStatus.NOT_FOUND, b"there is only /metrics\n")
        else:
            self._answer(HTTPStatus.OK, generate_latest(self.server.registry), CONTENT_TYPE)

    def log_message(self, *_arguments: object) -> None:
        """Being read every few seconds is no news."""

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        if status is HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
