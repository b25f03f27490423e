"""docker-compose.yml without a container engine: every service's own command as an ordinary process.

A container has an address of its own; here that is one of 127.0.0.0/8, so that all listen on the ports they have in
containers. What containers have and this has not is put in the place of it, and nothing else is changed:

    a service's name, 0.0.0.0 and 127.0.0.1     the address of that service's process, and its own
    /run/secrets, /etc/..., /var/..., /data     the folders and files that the file mounts there
    the images' programs                        the embedded PostgreSQL and Redis, and this checkout; Prometheus, the
                                                collector and Grafana where the machine has them
    initdb by the image of Postgres             initdb
    DNS of several containers of one service    Prometheus is given their addresses

Run by hand: `make deploy-by-hand`.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from deploy.make_secrets import make_secrets
from orchestrator import launch
from orchestrator.child import Child
from orchestrator.embedded import postgres as embedded_postgres
from orchestrator.embedded import redis as embedded_redis
from orchestrator.embedded.identity import give_directory, postgres_identity
from orchestrator.logs import RotatingLog
from tests.deploy.compose import ROOT, Service, read, services

RESTART_SECONDS = 0.1
"""Docker waits so long before the first restart, then twice as long each time; a run of ten seconds begins anew."""
POLL_SECONDS = 0.05


class Container:
    """One process of a service, with an address of its own. It is started again as the service's policy says."""

    def __init__(self, house: "ByHand", service: Service, number: int, address: str) -> None:
        self.name = f"{service.name}-{number}"
        self.service = service
        self.address = address
        self.folder = house.folder / self.name
        self.folder.mkdir()
        self.restarts = 0
        self._house = house
        self._child = Child(RotatingLog(self.folder / "log"))
        self._started_at = 0.0
        self._wait_seconds = RESTART_SECONDS
        self._wanted = False

    @property
    def pid(self) -> int | None:
        return self._child.pid

    @property
    def exit_code(self) -> int | None:
        return self._child.exit_code

    def log(self) -> str:
        return self._child.log.tail(4000)

    def start(self) -> None:
        """From the main thread: the process ends with the thread that started it."""
        self._wanted = True
        self._started_at = time.monotonic()
        program, identity = self._program()
        self._child.start(program, environment=self.environment(), directory=self.folder, identity=identity)

    def tend(self) -> None:
        """Start it again where it has ended and its policy says so."""
        if not self._wanted or self._child.alive():
            return
        policy, code = self.service.restarts, self._child.exit_code
        ran = time.monotonic() - self._started_at
        if policy == "no" or (policy.startswith("on-failure") and code == 0):
            return
        if ran >= 10:
            self._wait_seconds = RESTART_SECONDS
        if ran >= self._wait_seconds:
            self._wait_seconds *= 2
            self.restarts += 1
            self.start()

    def is_healthy(self) -> bool:
        """Whether the check of the file says so, by its own command, in this container's environment."""
        kind, *words = self.service.check or ["NONE"]
        if kind == "CMD-SHELL":
            words = ["/bin/sh", "-c", *words]
        words = [self.translated(word) for word in words]
        tried = subprocess.run(words, env=self.environment(), cwd=self.folder, capture_output=True, timeout=10)
        return tried.returncode == 0

    def kill(self) -> None:
        """As the end of a container's first process: everything in it is gone at once."""
        pid = self._child.pid
        assert pid is not None, f"{self.name} does not run\n{self.log()}"
        os.killpg(pid, signal.SIGKILL)
        self._child.wait(5)

    def stop(self) -> None:
        self._wanted = False
        number = signal.Signals[self.service.given.get("stop_signal", "SIGTERM")]
        self._child.stop((number,), step_seconds=self.service.grace_seconds)

    def run(self, *words: str) -> str:
        """As `docker compose exec`: another command in this container; what it prints."""
        program = [self.translated(word) for word in self._found(words)]
        done = subprocess.run(program, env=self.environment(), cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def environment(self) -> dict[str, str]:
        own = {name: self.translated(value) for name, value in self.service.environment.items()}
        bins = [str(Path(sys.executable).parent), *self._house.server_bins, os.environ["PATH"]]
        return {"PATH": ":".join(bins), "HOME": str(self.folder), "LANG": "C.UTF-8", "LC_ALL": "C", **own}

    def translated(self, text: str) -> str:
        return self._house.translated(text, self)

    def _program(self) -> tuple[list[str], launch.Identity | None]:
        words = [self.translated(word) for word in self._found(self.service.command)]
        if self.service.name == "postgres":
            return self._postgres(words)
        if self.service.name == "redis":
            return [*words, "--bind", self.address, "--dir", str(self._house.volume("redis"))], None
        if self.service.name == "prometheus":
            return [*words, f"--web.listen-address={self.address}:9090"], None
        return words, None

    def _found(self, words: Any) -> list[str]:
        first = self._house.program_of(self.service)
        return [first, *words] if first else list(words)

    def _postgres(self, words: list[str]) -> tuple[list[str], launch.Identity | None]:
        """What the image does around the command: the cluster, its user and its database; it listens for others."""
        volume = self._house.volume("postgres")
        identity = postgres_identity(volume)
        give_directory(volume, identity)
        cluster = volume / "data"
        binary = str(self._house.postgres_bin / words[0])
        network = ["-c", f"listen_addresses={self.address}", "-c", "unix_socket_directories="]
        program = [binary, "-D", str(cluster), *words[1:], *network]
        if not cluster.exists():
            self._make_cluster(cluster, identity)
        return program, identity

    def _make_cluster(self, cluster: Path, identity: launch.Identity | None) -> None:
        environment = self.environment()
        initdb = [str(self._house.postgres_bin / "initdb"), "-D", str(cluster), "-U", environment["POSTGRES_USER"]]
        initdb += [f"--pwfile={environment['POSTGRES_PASSWORD_FILE']}", "--auth=scram-sha-256", "--encoding=UTF8"]
        initdb += environment["POSTGRES_INITDB_ARGS"].split()
        subprocess.run(launch.command(initdb, identity=identity), check=True, capture_output=True, cwd=cluster.parent)
        single = [str(self._house.postgres_bin / "postgres"), "--single", "-D", str(cluster), "postgres"]
        create = f'create database "{environment["POSTGRES_DB"]}"\n'.encode()
        subprocess.run(
            launch.command(single, identity=identity), check=True, capture_output=True, input=create, cwd=cluster.parent
        )


class ByHand:
    """The whole file, in `folder`. `scale` says how many containers a service has, where not one."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        """`environment` is added to that of every part of ours, for tests that want it quicker."""
        self.folder = folder
        self.given = read()
        self.services = services(self.given)
        self.postgres_bin = embedded_postgres._binaries(18)
        self._redis_bin = embedded_redis._binary()
        links = folder / "bin"
        links.mkdir(parents=True)
        (links / "redis-server").symlink_to(self._redis_bin)
        self.server_bins = [str(self.postgres_bin), str(self._redis_bin.parent), str(links)]
        self.containers: list[Container] = []
        self.skipped: dict[str, str] = {}
        net = f"127.{random.randrange(10, 250)}.{random.randrange(1, 250)}"
        self._addresses = (f"{net}.{number}" for number in range(2, 250))
        self._first = {service.name: next(self._addresses) for service in self.services}
        hosts = {"postgres": f"{self._first['postgres']}:5432", "redis": f"{self._first['redis']}:6379"}
        make_secrets(folder / "secrets", hosts)
        folder.chmod(0o755)
        (folder / "secrets").chmod(0o755)  # the database's user is another one, as in a container
        for service in self.services:
            if service.given.get("build"):
                service.given["environment"] = {**service.environment, **(environment or {})}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def up(self) -> None:
        """As `docker compose up --wait`: each once its conditions are met; returns when all are healthy."""
        for service in self.services:
            reason = self._missing(service)
            if reason:
                self.skipped[service.name] = reason
                continue
            for name, condition in service.needs.items():
                if name not in self.skipped:
                    self._await(name, condition)
            self.add(service.name)
        for container in self.containers:
            if container.service.check and container.service.restarts == "unless-stopped":
                self._await(container.service.name, "service_healthy")

    def add(self, name: str) -> Container:
        """One more container of the service, as `--scale` does."""
        service = next(each for each in self.services if each.name == name)
        number = len(self.of(name)) + 1
        address = self._first[name] if number == 1 else next(self._addresses)
        container = Container(self, service, number, address)
        self.containers.append(container)
        container.start()
        return container

    def of(self, name: str) -> list[Container]:
        return [each for each in self.containers if each.service.name == name]

    def down(self) -> None:
        for container in reversed(self.containers):
            container.stop()

    def until(self, condition: Callable[[], object], what: str, deadline_seconds: float = 60) -> None:
        """Poll, and tend the containers meanwhile."""
        deadline = time.monotonic() + deadline_seconds
        while not condition():
            for container in self.containers:
                container.tend()
            if time.monotonic() > deadline:
                logs = "\n".join(f"--- {each.name}\n{each.log()[-1500:]}" for each in self.containers)
                raise AssertionError(f"not within {deadline_seconds:g} s: {what}\n{logs}")
            time.sleep(POLL_SECONDS)

    def volume(self, name: str) -> Path:
        path = self.folder / "volumes" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def program_of(self, service: Service) -> str | None:
        """The program that an image starts by itself, where the command is arguments only."""
        return {"prometheus": "prometheus", "otel-collector": "otelcol", "grafana": "grafana-server"}.get(service.name)

    def translated(self, text: str, container: Container) -> str:
        mounts = self._mounts(container)
        text = re.sub(rf"(?<![\w/])({'|'.join(mounts)})(?![\w.])", lambda found: mounts[found[1]], text)
        text = text.replace("0.0.0.0", container.address).replace("127.0.0.1", container.address)
        return re.sub(
            rf"(?<=//)({'|'.join(map(re.escape, self._first))})(?=:\d)", lambda found: self._first[found[1]], text
        )

    def _mounts(self, container: Container) -> dict[str, str]:
        name = container.service.name
        made = {"/run/secrets": str(self.folder / "secrets")}
        if name == "prometheus":
            made["/etc/prometheus"] = str(self._prometheus_files(container))
            made["/prometheus"] = str(self.volume("prometheus"))
        return made

    def _prometheus_files(self, container: Container) -> Path:
        """Copied, with addresses where containers have names."""
        made = self.folder / "prometheus"
        if not made.exists():
            shutil.copytree(ROOT / "deploy" / "prometheus", made)
            given = yaml.safe_load((made / "prometheus.yml").read_text().replace("15s", "1s").replace("10s", "1s"))
            for job in given["scrape_configs"]:
                job["authorization"]["credentials_file"] = str(self.folder / "secrets" / "metrics_token")
                targets = [target for group in job.get("static_configs", []) for target in group["targets"]]
                targets = [f"{self._first[host]}:{port}" for host, port in (each.split(":") for each in targets)]
                for lookup in job.pop("dns_sd_configs", []):
                    running = [each for name in lookup["names"] for each in self.of(name)]
                    targets += [f"{each.address}:{lookup['port']}" for each in running]
                job["static_configs"] = [{"targets": targets}]
            (made / "prometheus.yml").write_text(yaml.safe_dump(given))
        return made

    def _missing(self, service: Service) -> str | None:
        """Why it cannot be run here, if so."""
        program = self.program_of(service)
        checks = [word for word in (service.check or [])[1:2] if word == "wget"]
        missing = [each for each in ([program] if program else []) + checks if not shutil.which(each)]
        return f"{' and '.join(missing)} is not installed here" if missing else None

    def _await(self, name: str, condition: str) -> None:
        (container, *_) = self.of(name)
        if condition == "service_completed_successfully":
            self.until(lambda: container.exit_code == 0, f"{name} completes", 120)
        else:
            self.until(container.is_healthy, f"{name} is healthy", container.service.health_seconds)


@contextmanager
def by_hand(folder: Path, **environment: str) -> Iterator[ByHand]:
    with ByHand(folder, environment) as house:
        house.up()
        yield house
