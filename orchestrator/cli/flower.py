"""The command that runs Flower; apart from the others, which need not pay for what it imports."""

import sys

from orchestrator.api.serve import listen
from orchestrator.flower import run_flower
from shared_state.logs import configure_logs
from shared_state.settings import from_environment


def flower() -> None:
    """Run Flower, behind a password and for looking only, where the setting flower_listen says."""
    settings = from_environment()
    configure_logs(settings)
    listener = listen(*settings.flower_address, setting="flower_listen")
    host, port = listener.getsockname()[:2]
    sys.stderr.write(f"Flower listens on http://{f'[{host}]' if ':' in host else host}:{port}\n")
    run_flower(settings, listener)
