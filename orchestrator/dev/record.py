"""dev.json: what clients need to find a running dev server, and what its next start needs to clean up after it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.dev.flower import FlowerShown
from orchestrator.dev.parts import Shown
from orchestrator.embedded.folder import wait_until, write_private
from shared_state.settings import DEV_FILE, Settings

_SHARED_SETTINGS = ("database_url", "broker_url", "artifact_url", "api_url")
_ORPHAN_SECONDS = 5.0
TARGETS_FILE = "metrics-targets.json"


def write_record(settings: Settings, key: str, flower: FlowerShown | None, parts: Sequence[Shown]) -> None:
    """Replace the file in one step, readable by its owner only: it holds every password of this server."""
    record = {
        "pid": os.getpid(),
        "url": settings.api_url,
        "key": key,
        "flower": flower,
        "metrics": {
            "url": f"{settings.api_url}/metrics",
            "token": settings.metrics_token.get_secret_value() if settings.metrics_token else None,
            "targets": str(settings.data_dir / TARGETS_FILE),
        },
        "data_dir": str(settings.data_dir),
        "written_at": time.time(),
        "parts": list(parts),
        # Clients read these below their own settings (see shared_state/settings.py).
        "settings": {
            **{name: getattr(settings, name) for name in _SHARED_SETTINGS},
            "api_key": key,
            "signing_keys": {name: secret.get_secret_value() for name, secret in settings.signing_keys.items()},
        },
    }
    write_private(settings.data_dir / DEV_FILE, json.dumps(record, indent=2) + "\n")


def write_targets(data_dir: Path, parts: Sequence[Shown]) -> None:
    """Where the parts tell of themselves, as Prometheus reads it (`file_sd_configs`)."""
    targets = [
        {"targets": [urlsplit(part["metrics"]).netloc], "labels": {"process": part["name"]}}
        for part in parts
        if part["metrics"]
    ]
    write_private(data_dir / TARGETS_FILE, json.dumps(targets, indent=2) + "\n")


def remove_record(data_dir: Path) -> None:
    (data_dir / DEV_FILE).unlink(missing_ok=True)
    (data_dir / TARGETS_FILE).unlink(missing_ok=True)


def end_previous(data_dir: Path) -> list[str]:
    """Kill what a killed dev server left running, forget its record; returns the names its workers had."""
    try:
        parts = json.loads((data_dir / DEV_FILE).read_text(encoding="utf-8"))["parts"]
        left = [(int(part["pid"]), str(part["command"])) for part in parts if part["pid"]]
        workers = [str(part["worker"]) for part in parts if part["worker"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    ours = [(pid, command) for pid, command in left if _runs(pid, command)]
    for pid, _ in ours:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(_runs(pid, command) for pid, command in ours), lambda: True, _ORPHAN_SECONDS)
    remove_record(data_dir)
    return workers


def _runs(pid: int, command: str) -> bool:
    """Whether that process still is what we started, and not one that got its number. Servers clean up themselves."""
    if " " not in command:
        return False
    if sys.platform == "linux":
        try:
            return (
                Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")[:-1] == command.split()
            )
        except OSError:
            return False
    shown = subprocess.run(["/bin/ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True, check=False)
    return shown.stdout.strip() == command
