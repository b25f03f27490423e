"""The API as a process: checked before it listens, stopped without cutting anyone off in the middle."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI
from sqlalchemy import Engine

from contracts.errors import Misconfigured
from orchestrator.api.application import make_api
from orchestrator.api.services import Services
from orchestrator.api.traffic import Traffic
from shared_state import migrate, tenant_wall
from shared_state.broker.app import make_app, signing_keys
from shared_state.broker.publisher import Publisher
from shared_state.engine import make_engine
from shared_state.metrics import Pools, make_registry, open_endpoint
from shared_state.settings import Settings
from shared_state.telemetry import Tracing, open_tracing

POOL_SIZE = 12
POOL_SECONDS = 2.0
"""Whoever waits this long for a connection is told to come back; and so is, for a moment, whoever comes next."""
_STOP_SECONDS = 10
_LOG = logging.getLogger("orchestrator.api")


class Server(uvicorn.Server):
    """Ends the live event streams first when it is told to stop: they would never end by themselves."""

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._services.feed.stop()
        await super().shutdown(sockets)


def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve until told to stop; `announce` gets the URL. Raises `Misconfigured` or `Unavailable` at the start."""
    tracing = open_tracing("orchestrator-api")
    listener = listen(settings.listen_host, settings.listen_port)
    engine = make_engine(
        settings.database_url, pool_size=POOL_SIZE, application="orchestrator api", pool_seconds=POOL_SECONDS
    )
    publisher = open_publisher(settings, tracing)
    registry = make_registry()
    Pools(registry, [("api", engine)])
    endpoint = open_endpoint(settings, registry)
    try:
        migrate.require_served(engine)
        walled = is_walled(settings, engine)
        traffic = Traffic(registry)
        server = make_server(make_api(settings, engine, publisher, walled=walled, traffic=traffic, tracing=tracing))
        host, port = listener.getsockname()[:2]
        announce(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        _stop_on_signals(server)
        asyncio.run(server.serve([listener]))
    finally:
        if endpoint is not None:
            endpoint.close()
        publisher.close()
        engine.dispose()
        listener.close()
        if tracing is not None:
            tracing.close()


def is_walled(settings: Settings, engine: Engine) -> bool:
    """Whether row-level security will bind what the API does for its callers; if it cannot, that is said.

    Raises `Misconfigured` where the settings require it and it cannot.
    """
    if settings.row_level_security == "off":
        return False
    reason = tenant_wall.weakness(engine)
    if reason is None:
        return True
    text = f"row-level security is not in force: {reason}"
    if settings.row_level_security == "require":
        raise Misconfigured(f"row_level_security: it is required, but {text}")
    _LOG.warning("%s. Every query still names its tenant; this is the second wall that is missing.", text)
    return False


def make_server(api: FastAPI) -> Server:
    config = uvicorn.Config(
        api,
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="none",
        timeout_graceful_shutdown=_STOP_SECONDS,
        log_config=None,
    )
    return Server(config, api.state.services)


def _stop_on_signals(server: Server) -> None:
    """The server hands the signals that it stopped for on to whoever handled them before it: had nobody, a clean stop
    would end as a death by signal. One that comes before the server listens to them stops it as well."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def open_publisher(settings: Settings, tracing: Tracing | None = None) -> Publisher:
    """Raises `Misconfigured` where the settings name no signing key."""
    return Publisher(make_app(settings), signing_keys(settings), origin="orchestrator api", tracing=tracing)


def listen(host: str, port: int, *, setting: str = "listen_port") -> socket.socket:
    """A bound socket, so that a port which is taken is found out before anything else starts."""
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[4][:2], family=address[0], backlog=1024)
    except OSError as error:
        reason = error.strerror or str(error)
        raise Misconfigured(
            f"{setting}: cannot listen on {host}:{port} ({reason}); choose another with ORCHESTRATOR_{setting.upper()}"
        ) from None
    # Connections inherit it. Without, an answer of two packets waits 40 ms for the acknowledgement of the first.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
