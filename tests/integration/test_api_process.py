"""The API as a process of its own: how it stops, and that small answers are not held back."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from sqlalchemy import Engine

from orchestrator.embedded.folder import free_port

from .api_server import apply_team, make_keys, until


@dataclass(frozen=True)
class ApiProcess:
    process: subprocess.Popen[bytes]
    port: int
    key: str

    def http(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}/v1", headers=headers, timeout=20)


@pytest.fixture
def process(engine: Engine, database_url: str, redis_url: str) -> Iterator[ApiProcess]:
    apply_team(engine)
    key, port = make_keys(engine)["admin"], free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")},
        "ORCHESTRATOR_DATABASE_URL": database_url,
        "ORCHESTRATOR_BROKER_URL": redis_url,
        "ORCHESTRATOR_SIGNING_KEYS": "test:a secret for tests only",
    }
    started = subprocess.Popen([sys.executable, "-m", "orchestrator", "api", "--port", str(port)], env=environment)
    try:
        until(lambda: _listens(port), 30)
        yield ApiProcess(started, port, key)
    finally:
        started.kill()
        started.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_clean_stop_is_no_death(process: ApiProcess, number: signal.Signals) -> None:
    with process.http() as client:
        assert client.get("/tasks").status_code == 200
        process.process.send_signal(number)
        assert process.process.wait(20) == 0


def test_answers_do_not_wait_for_acknowledgements(process: ApiProcess) -> None:
    """On one kept connection; held back, each takes 40 ms or more, however fast the machine."""
    with process.http() as client:
        client.get("/tasks")
        took = []
        for _ in range(20):
            began = time.monotonic()
            assert client.get("/tasks").status_code == 200
            took.append(time.monotonic() - began)
    assert min(took) < 0.035, took
