"""A port for a part of a dev server, settled anew at each of its starts: others want it too."""

from contracts.errors import Misconfigured
from orchestrator.api.serve import listen
from orchestrator.embedded.folder import free_port

HOST = "127.0.0.1"


class PortOfPart:
    """The last one as long as it is free, so that whoever knows it finds the part again."""

    def __init__(self, wanted: int | None = None) -> None:
        self.number = wanted

    def settle(self) -> str:
        """HOST:PORT for the start that follows."""
        if self.number is None or not _is_free(self.number):
            self.number = free_port()
        return f"{HOST}:{self.number}"


def _is_free(port: int) -> bool:
    try:
        listen(HOST, port).close()
    except Misconfigured:
        return False
    return True
