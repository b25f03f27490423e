"""How `orchestrator scale` reaches a running dev server: a small file in its data directory, read every second."""

import json
from pathlib import Path

from contracts.errors import Misconfigured, OrchestratorError
from orchestrator.dev.options import checked_count, merged_counts
from orchestrator.embedded.folder import write_private
from shared_state.settings import DEV_FILE

_FILE = "counts.json"


def ask_for(data_dir: Path, pool: str, count: int) -> None:
    """Ask the dev server of this data directory for `count` processes in `pool`. Raises `Misconfigured` without one."""
    checked_count(pool, count)
    if not (data_dir / DEV_FILE).exists():
        raise Misconfigured(
            f"{data_dir}: no dev server runs on this data directory. Under another deployment the number of workers is "
            "its own setting: `deploy.replicas` in compose, `replicas` of the worker Deployment in Kubernetes."
        )
    write_private(data_dir / _FILE, json.dumps(merged_counts(asked_counts(data_dir), {pool: count})))


def asked_counts(data_dir: Path) -> dict[str, int]:
    """What was asked for since the server started; nothing where the file is absent or not ours."""
    try:
        asked = json.loads((data_dir / _FILE).read_text(encoding="utf-8"))
        return {str(pool): checked_count(str(pool), int(count)) for pool, count in dict(asked).items()}
    except (OSError, ValueError, TypeError, OrchestratorError):
        return {}


def asked_when(data_dir: Path) -> float | None:
    """When somebody last asked, by the file's clock; null where nobody has."""
    try:
        return (data_dir / _FILE).stat().st_mtime
    except OSError:
        return None


def forget_counts(data_dir: Path) -> None:
    """A new start begins with its own options."""
    (data_dir / _FILE).unlink(missing_ok=True)
