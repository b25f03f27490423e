"""Flower beside a dev server: on 127.0.0.1, with a password, looking only."""

from pathlib import Path
from typing import TypedDict

from orchestrator.dev.ports import PortOfPart
from orchestrator.embedded.folder import stored_secret
from shared_state.settings import PREFIX

USUAL_PORT = 5555


class FlowerShown(TypedDict):
    """Flower in dev.json."""

    url: str
    user: str
    password: str


class FlowerAccess:
    """Where Flower listens and who may look."""

    def __init__(self, data_dir: Path) -> None:
        self.user = "dev"
        self.password = stored_secret(data_dir / "flower.password")
        self._port = PortOfPart(USUAL_PORT)

    @property
    def port(self) -> int | None:
        return self._port.number

    def environment(self) -> dict[str, str]:
        """What Flower is told; never by its command line, which everybody can read."""
        return {
            f"{PREFIX}FLOWER_LISTEN": self._port.settle(),
            f"{PREFIX}FLOWER_USER": self.user,
            f"{PREFIX}FLOWER_PASSWORD": self.password,
        }

    def shown(self) -> FlowerShown:
        return {"url": f"http://127.0.0.1:{self.port}", "user": self.user, "password": self.password}
