"""docker-compose.yml as it says: services with their commands, environments, health checks and conditions."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
_VARIABLE = re.compile(r"\$(\$|\{(?P<name>\w+)(:-(?P<default>[^}]*))?\})")
_DURATION = re.compile(r"^(\d+)(s|m)$")


@dataclass(frozen=True)
class Service:
    name: str
    given: dict[str, Any]

    @property
    def command(self) -> list[str]:
        return [str(word) for word in self.given.get("command", [])]

    @property
    def environment(self) -> dict[str, str]:
        return {name: str(value) for name, value in self.given.get("environment", {}).items()}

    @property
    def needs(self) -> dict[str, str]:
        """Conditions by service."""
        return {name: wanted["condition"] for name, wanted in self.given.get("depends_on", {}).items()}

    @property
    def check(self) -> list[str] | None:
        """The health check's words, or None where there is none."""
        check = self.given.get("healthcheck")
        return None if check is None else [str(word) for word in check["test"]]

    @property
    def health_seconds(self) -> float:
        """How long it may take to become healthy before it counts as unhealthy."""
        check = self.given["healthcheck"]
        return seconds(check["start_period"]) + check["retries"] * seconds(check["interval"])

    @property
    def restarts(self) -> str:
        return str(self.given.get("restart", "no"))

    @property
    def grace_seconds(self) -> float:
        return seconds(self.given.get("stop_grace_period", "10s"))


def seconds(text: str) -> float:
    found = _DURATION.match(text)
    assert found, text
    return int(found[1]) * {"s": 1, "m": 60}[found[2]]


def read(file: Path = FILE) -> dict[str, Any]:
    """With its variables' defaults put in, as an empty environment has them."""
    text = _VARIABLE.sub(lambda found: "$" if found[1] == "$" else found["default"] or "", file.read_text())
    made: dict[str, Any] = yaml.safe_load(text)
    return made


def services(given: dict[str, Any]) -> list[Service]:
    """In an order in which each comes after those it depends on; otherwise in the file's."""
    left = {name: Service(name, body) for name, body in given["services"].items()}
    ordered: list[Service] = []
    while left:
        ready = [each for each in left.values() if not any(name in left for name in each.needs)]
        assert ready, f"they depend on each other: {sorted(left)}"
        ordered.append(left.pop(ready[0].name))
    return ordered
