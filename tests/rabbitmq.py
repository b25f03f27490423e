"""A RabbitMQ node of the tests' own: on loopback, in its own folder, with its own name daemon; gone when they end.

The server is not a Python package: it is used where the machine has one (Debian, Ubuntu: `apt install rabbitmq-server`;
no service needs to run), and tests that need it are skipped, with this reason, where not.
"""

import os
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import amqp

from orchestrator.child import Child
from orchestrator.embedded.folder import free_port, wait_until
from orchestrator.logs import RotatingLog

START_SECONDS = 60.0
PASSWORD = "a password of the tests"
NOT_INSTALLED = "RabbitMQ is not installed (Debian, Ubuntu: apt install rabbitmq-server)"
_HOMES = ("/usr/lib/rabbitmq/lib", "/usr/lib/rabbitmq", "/opt/rabbitmq")


def rabbitmq_home() -> Path | None:
    """The folder whose `sbin` has the server's own scripts; the distributions' wrappers would change the user."""
    found = [script for home in _HOMES for script in Path(home).glob("**/sbin/rabbitmq-server")]
    return sorted(found)[-1].parent.parent if found and shutil.which("erl") else None


class RabbitServer:
    """`settings` are lines for rabbitmq.conf. Ports stay the same over restarts, so that clients reconnect."""

    def __init__(self, folder: Path, settings: Sequence[str] = (), tls: Path | None = None) -> None:
        """With `tls`, a folder of `ca.pem`, `cert.pem` and `key.pem`, it listens by TLS alone."""
        home = rabbitmq_home()
        assert home is not None, NOT_INSTALLED
        self._home = home
        self._folder = folder
        self._tls = tls
        self.port = free_port()
        self._distribution_port, self._names_port = free_port(), free_port()
        self._log = RotatingLog(folder / "rabbitmq.log")
        self._names = Child(RotatingLog(folder / "epmd.log"))
        self._server = Child(self._log)
        folder.mkdir(parents=True, exist_ok=True)
        kind = "ssl" if tls else "tcp"
        lines = [
            f"listeners.{'tcp' if tls else 'ssl'} = none",
            f"listeners.{kind}.1 = 127.0.0.1:{self.port}",
            "default_user = orchestrator",
            f"default_pass = {PASSWORD}",
            "disk_free_limit.absolute = 50MB",
            *settings,
        ]
        if tls:
            lines += [f"ssl_options.cacertfile = {tls}/ca.pem", f"ssl_options.certfile = {tls}/cert.pem"]
            lines += [f"ssl_options.keyfile = {tls}/key.pem"]
        (folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (folder / "plugins").write_text("[].\n")

    @property
    def url(self) -> str:
        return f"amqp{'s' if self._tls else ''}://orchestrator:{quote(PASSWORD)}@127.0.0.1:{self.port}//"

    def start(self) -> None:
        names = shutil.which("epmd")
        assert names is not None, "Erlang's epmd is not on the path"
        environment = self._environment()
        if not self._names.alive():
            program = [names, "-address", "127.0.0.1", "-port", str(self._names_port)]
            self._names.start(program, environment=environment, directory=self._folder)
        program = [str(self._home / "sbin" / "rabbitmq-server")]
        self._server.start(program, environment=environment, directory=self._folder, death_signal=signal.SIGTERM)
        assert wait_until(self._answers, self._server.alive, START_SECONDS), self._log.tail()

    def stop(self) -> None:
        self._server.stop((signal.SIGTERM,), step_seconds=20)
        self._names.stop((signal.SIGTERM,))

    def kill(self) -> None:
        """kill -9 of the node itself, which the script is the parent of."""
        self._server.stop(())

    def control(self, *arguments: str) -> str:
        """What `rabbitmqctl` prints."""
        program = [str(self._home / "sbin" / "rabbitmqctl"), "--quiet", *arguments]
        done = subprocess.run(program, env=self._environment(), capture_output=True, text=True, cwd=self._folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def channel(self) -> Any:
        with amqp.Connection(
            f"127.0.0.1:{self.port}",
            userid="orchestrator",
            password=PASSWORD,
            confirm_publish=True,
            ssl={"cert_reqs": ssl.CERT_NONE} if self._tls else False,
        ) as connection:
            yield connection.channel()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1), self.channel():
                return True
        except (OSError, amqp.exceptions.AMQPError):
            return False

    def _environment(self) -> dict[str, str]:
        folder = self._folder
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"orchestrator-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._names_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} "
            "-rabbit channel_tick_interval 1000 -rabbit quorum_tick_interval 200 +S 1:1",
        }
