"""The one-command server: Postgres, Redis, API, loops, workers and Flower as children of one supervisor."""

from orchestrator.dev.options import Options
from orchestrator.dev.run import run_dev

__all__ = ["Options", "run_dev"]
