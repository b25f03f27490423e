"""A real Prometheus that evaluates the rules of deploy/ on what the processes of a test tell, with short intervals."""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import pytest

from orchestrator.embedded.folder import free_port

RULES = Path("deploy/prometheus/alerts.yml")
_DURATION = re.compile(r"(?<=\[)\d+[ms](?=\])|(?<=for: )\d+[ms]")
SHORTER = {"15s": "1s", "30s": "1s", "1m": "2s", "2m": "2s", "5m": "3s", "10m": "3s", "15m": "3s"}
"""What the rules' durations become, so that no test waits for minutes; the expressions and thresholds stay."""


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian, Ubuntu: apt install prometheus)")
    return found


def shortened(rules: str) -> str:
    return _DURATION.sub(lambda found: SHORTER[found[0]], rules)


class Prometheus:
    """Started by `with`. `jobs`: the addresses of each job's targets."""

    def __init__(self, folder: Path, jobs: Mapping[str, Sequence[str]], token: str) -> None:
        self._folder = folder
        self._url = f"http://127.0.0.1:{free_port()}"
        self._program = program("prometheus")
        (folder / "token").write_text(token)
        (folder / "alerts.yml").write_text(shortened(RULES.read_text()))
        scrapes = "".join(
            f"  - job_name: {job}\n    authorization: {{credentials_file: {folder / 'token'}}}\n"
            f"    static_configs: [{{targets: {list(targets)}}}]\n"
            for job, targets in jobs.items()
        )
        intervals = "global: {scrape_interval: 500ms, scrape_timeout: 450ms, evaluation_interval: 500ms}\n"
        (folder / "prometheus.yml").write_text(f"{intervals}rule_files: [alerts.yml]\nscrape_configs:\n{scrapes}")

    def __enter__(self) -> Self:
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    self._program,
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address={self._url.removeprefix('http://')}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(10)

    def ready(self) -> bool:
        """Whether every target has been scraped."""
        try:
            return bool(self.query("up")) and all(float(row["value"][1]) for row in self.query("up"))
        except httpx.TransportError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Fails, with Prometheus's own words, for an expression that it does not understand."""
        answer = httpx.get(f"{self._url}/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", (expression, answer)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def fires(self, alert: str, **labels: str) -> bool:
        wanted = {"alertname": alert, **labels}.items()
        alerts = httpx.get(f"{self._url}/api/v1/alerts").json()["data"]["alerts"]
        return any(wanted <= each["labels"].items() for each in alerts if each["state"] == "firing")
