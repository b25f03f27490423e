"""Flower beside a dev server: on 127.0.0.1, with a password, looking only."""

import secrets
from pathlib import Path
from typing import TypedDict

from contracts.errors import Misconfigured
from orchestrator.api.serve import listen
from orchestrator.embedded.folder import free_port, stored_secret

USUAL_PORT = 5555
PROGRAM = ("celery", "-A", "shared_state.broker.flower_app:app", "flower")


class FlowerShown(TypedDict):
    """Flower in dev.json."""

    url: str
    user: str
    password: str


class FlowerAccess:
    """Where Flower listens and who may look. The port is settled anew at each of its starts: others want it too."""

    def __init__(self, data_dir: Path) -> None:
        self.user = "dev"
        self.password = stored_secret(data_dir / "flower.password")
        self.port = USUAL_PORT

    def environment(self) -> dict[str, str]:
        """What Flower is told; never by its command line, which everybody can read."""
        self.port = self.port if _is_free(self.port) else free_port()
        return {
            "FLOWER_ADDRESS": "127.0.0.1",
            "FLOWER_PORT": str(self.port),
            "FLOWER_BASIC_AUTH": f"{self.user}:{self.password}",
            "FLOWER_COOKIE_SECRET": secrets.token_hex(32),
            "FLOWER_READ_ONLY": "true",
            "FLOWER_MAX_TASKS": "10000",
        }

    def shown(self) -> FlowerShown:
        return {"url": f"http://127.0.0.1:{self.port}", "user": self.user, "password": self.password}


def _is_free(port: int) -> bool:
    try:
        listen("127.0.0.1", port).close()
    except Misconfigured:
        return False
    return True
