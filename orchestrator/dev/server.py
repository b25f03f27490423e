"""A dev server from lock to last process: what `orchestrator dev` runs and the demo starts inside itself."""

import logging
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import Engine

from contracts.errors import Conflict, Unavailable
from orchestrator.api.serve import listen
from orchestrator.dev.flower import FlowerAccess
from orchestrator.dev.options import Options
from orchestrator.dev.parts import Server, ServerPart
from orchestrator.dev.record import end_previous, remove_record
from orchestrator.dev.supervisor import LOGGER, Supervisor
from orchestrator.dev.teams import TeamsWatch, apply_built_in
from orchestrator.embedded import EmbeddedPostgres, EmbeddedRedis
from orchestrator.embedded.folder import DirectoryLock, free_port, stored_secret, unusable, write_private
from orchestrator.logs import KEPT_FILES, MAX_BYTES
from shared_state import keys
from shared_state.engine import make_engine
from shared_state.migrate import upgrade
from shared_state.settings import Settings, from_environment, masked

TENANT = "default"
_KEY_NAME = "dev"


class DevServer:
    """Use it in a `with`, from the main thread; call `tick` several times a second as long as it should live.

    Entering raises `Misconfigured` (directory, port, binaries, settings) or `Unavailable` (a part does not come up);
    either way nothing is left running. `tell` gets lines for people; setting `stopping` ends a start that still waits,
    setting `hurry` a stop.
    """

    def __init__(
        self,
        options: Options,
        tell: Callable[[str], None],
        stopping: threading.Event | None = None,
        hurry: threading.Event | None = None,
    ) -> None:
        self._options = options
        self._tell = tell
        self._stopping = stopping or threading.Event()
        self._hurry = hurry or threading.Event()
        self._lock: DirectoryLock | None = None
        self._servers: list[ServerPart] = []
        self._engine: Engine | None = None
        self._supervisor: Supervisor | None = None
        self._teams: TeamsWatch | None = None
        self._log: logging.Handler | None = None
        self.settings = Settings()
        self.key = ""
        self.flower: FlowerAccess | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except OSError as error:
            self._stop()
            raise unusable(self.settings.data_dir, error) from None
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def tick(self) -> None:
        if self._supervisor is not None:
            self._supervisor.tick()

    def _start(self) -> None:
        dead_workers = self._take_directory()
        self.settings = self._start_servers(self._with_port(_said(self._options)))
        _migrate(self.settings.database_url)
        self._engine = make_engine(self.settings.database_url, pool_size=2, application="orchestrator dev")
        self.key = _api_key(self._engine, self.settings.data_dir / "api.key")
        self.flower = FlowerAccess(self.settings.data_dir) if self._options.flower else None
        self._supervisor = Supervisor(self.settings, self._options, self.key, self._servers, self._tell, self._stopping)
        self._supervisor.forget_workers(dead_workers)
        self._supervisor.start(self.flower)
        apply_built_in(self._engine, TENANT)
        if self._options.teams is not None:
            self._teams = TeamsWatch(self._engine, TENANT, self._options.teams, self._tell)
            self._teams.start()
        self._supervisor.await_ready()

    def _take_directory(self) -> list[str]:
        """Lock the data directory and end what a killed run left; returns the names its workers had.

        Before the settings are read for good: the record of an earlier run would count as settings.
        """
        self.settings = _said(self._options)
        data_dir = self.settings.data_dir
        self._lock = DirectoryLock(data_dir, "dev server")
        self._lock.take()
        dead_workers = end_previous(data_dir)
        remove_record(data_dir)
        (data_dir / "logs").mkdir(exist_ok=True)
        self._log = _log_to(data_dir / "logs" / "dev.log")
        return dead_workers

    def _with_port(self, settings: Settings) -> Settings:
        """Settles where the API listens. Raises `Misconfigured` where that is taken, before anything is started."""
        port = settings.listen_port or free_port()
        listen(settings.listen_host, port).close()
        host = "127.0.0.1" if _is_anywhere(settings.listen_host) else settings.listen_host
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return _changed(settings, {"listen_port": port, "api_url": url})

    def _start_servers(self, settings: Settings) -> Settings:
        """Start what no URL was given for; returns the settings that lead to everything."""
        found: dict[str, object] = {}
        logs = settings.data_dir / "logs"
        if self._options.embedded or "database_url" not in settings.model_fields_set:
            postgres = EmbeddedPostgres(settings.data_dir / "postgres", log=logs / "postgres.log")
            self._serve("postgres", postgres, logs)
            found["database_url"] = postgres.url
        if self._options.embedded or "broker_url" not in settings.model_fields_set:
            redis = EmbeddedRedis(settings.data_dir / "redis", log=logs / "redis.log")
            self._serve("redis", redis, logs)
            found["broker_url"] = redis.url
        if not settings.signing_keys:
            found["signing_keys"] = {"dev": stored_secret(settings.data_dir / "signing.key")}
        if settings.metrics_token is None:
            found["metrics_token"] = stored_secret(settings.data_dir / "metrics.token")
        return _changed(settings, found)

    def _serve(self, name: str, server: Server, logs: Path) -> None:
        part = ServerPart(name, server, logs / f"{name}.log")
        part.start()
        self._servers.append(part)

    def _stop(self) -> None:
        """Everything, in order, whatever of it was started; the record last, the lock after all."""
        if self._teams is not None:
            self._teams.stop()
        if self._supervisor is not None:
            self._supervisor.stop(self._hurry)
        if self._engine is not None:
            self._engine.dispose()
        for part in reversed(self._servers):
            part.server.stop()
        if self._lock is not None and self._lock.held():
            remove_record(self.settings.data_dir)
            self._lock.release()
        if self._log is not None:
            logging.getLogger(LOGGER).removeHandler(self._log)
            self._log.close()


def _migrate(url: str) -> None:
    try:
        upgrade(url)
    except Unavailable as error:
        raise Unavailable(f"database_url: {masked(url)}: {error.text}") from error


def _log_to(path: Path) -> logging.Handler:
    """The supervisor's own log, a rotating file like those of its parts; people get their lines through `tell`."""
    handler = RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=KEPT_FILES, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    return handler


def _said(options: Options) -> Settings:
    """The settings with the options on top, the data directory absolute. Raises `Misconfigured`."""
    found = from_environment(
        {
            "data_dir": options.data_dir,
            "listen_port": options.port,
            "database_url": options.database_url,
            "broker_url": options.broker_url,
        },
        starts_what_may_crash=True,
    )
    return _changed(found, {"data_dir": found.data_dir.absolute()})


def _is_anywhere(host: str) -> bool:
    """Whether it is one of the addresses that mean all of them, which nobody can connect to."""
    with suppress(ValueError):
        return ip_address(host).is_unspecified
    return False


def _changed(settings: Settings, found: dict[str, object]) -> Settings:
    """With `found` in place; what nobody set stays unset, so that one can still ask what was."""
    said = {name: getattr(settings, name) for name in settings.model_fields_set}
    return Settings.model_validate({**said, **found})


def _api_key(engine: Engine, path: Path) -> str:
    """The key in `path` as long as the database still accepts it, else a new one: restarts keep it."""
    with suppress(FileNotFoundError):
        known = path.read_text(encoding="ascii").strip()
        if keys.authenticate(engine, known) is not None:
            return known
    try:
        fresh = keys.create(engine, TENANT, _KEY_NAME, keys.KeyRole.ADMIN)
    except Conflict:  # of another data directory on the same database, or of a file that was lost
        fresh = keys.create(engine, TENANT, f"{_KEY_NAME}-{secrets.token_hex(3)}", keys.KeyRole.ADMIN)
    write_private(path, fresh + "\n")
    return fresh
