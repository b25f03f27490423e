"""`orchestrator dev`: a dev server that lives until Ctrl-C, and what it says meanwhile."""

import shlex
import signal
import threading
from types import FrameType

from rich.console import Console

from contracts.errors import OrchestratorError
from orchestrator.dev.options import Options
from orchestrator.dev.server import DevServer
from orchestrator.models import describe_default
from shared_state.settings import Settings

TICK_SECONDS = 0.2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_dev(options: Options) -> int:
    """Start everything, keep it alive, stop it on SIGINT, SIGTERM or SIGHUP; the second signal skips patience.

    Returns the exit status 0. Raises `Misconfigured` or `Unavailable` when the start fails; nothing is left running.
    """
    console = Console(highlight=False, soft_wrap=True)
    stopping, hurry = threading.Event(), threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        (hurry if stopping.is_set() else stopping).set()

    previous = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        with DevServer(options, lambda line: console.print(line, markup=False), stopping, hurry) as server:
            if not stopping.is_set():
                console.print("orchestrator is running", style="bold")
                for label, text in _summary(server):
                    console.print(f"  {label:8}{text}", markup=False)
            while not stopping.wait(TICK_SECONDS):
                server.tick()
            console.print("stopping (Ctrl-C again to be quick)")
        console.print("stopped; the data stays in", str(server.settings.data_dir))
    except OrchestratorError:
        if not stopping.is_set():  # told to stop meanwhile: then it need not have come up
            raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 0


def _summary(server: DevServer) -> list[tuple[str, str]]:
    """Where everything is and what to type next, as (label, text)."""
    settings, flower = server.settings, server.flower
    lines = [("API", settings.api_url)]
    if flower is not None:
        lines.append(("Flower", f"{flower.shown()['url']}  (user {flower.user}, password in dev.json)"))
    lines.append(("Model", describe_default(settings).text))
    lines.append(("Data", f"{settings.data_dir}  (logs/: logs; dev.json: addresses, keys, pids)"))
    if settings.data_dir != Settings().data_dir.absolute():
        lines.append(("First", f"export ORCHESTRATOR_DATA_DIR={shlex.quote(str(settings.data_dir))}"))
    lines += [
        ("Try", "orchestrator submit survey --input path=. --wait"),
        ("Look", "orchestrator tasks | workers | dead-letters list | verify"),
        ("Stop", "Ctrl-C; a restart goes on with every task"),
    ]
    return lines
