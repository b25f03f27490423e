"""Commands that run until they are told to stop: the dev server, the API, a worker, the loops."""

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from orchestrator.api.serve import serve
from orchestrator.dev.options import Options
from orchestrator.dev.run import run_dev
from orchestrator.loops.main import run_loops
from shared_state.logs import configure_logs
from shared_state.settings import from_environment


def dev(
    *,
    data_dir: Path | None = None,
    port: int | None = None,
    executors: int | None = None,
    reviewers: int | None = None,
    planners: int | None = None,
    flower: bool = True,
    database_url: str | None = None,
    broker_url: str | None = None,
    teams: Path | None = None,
) -> int:
    """Run everything on this machine until Ctrl-C; a restart goes on with every task.

    Args:
        data_dir: Where everything is kept (.orchestrator).
        port: Port of the API (8080).
        executors: Worker processes for executors alone; without any such number, two that serve all roles.
        reviewers: Worker processes for reviewers alone.
        planners: Worker processes for planners alone.
        flower: Run Flower too.
        database_url: Use this PostgreSQL, not an embedded one.
        broker_url: Use this broker, not an embedded Redis.
        teams: Apply the teams in this directory, and again whenever they change.
    """
    return run_dev(
        Options(
            data_dir=data_dir,
            port=port,
            executors=executors,
            reviewers=reviewers,
            planners=planners,
            flower=flower,
            database_url=database_url,
            broker_url=broker_url,
            teams=teams,
        )
    )


def api(*, host: str | None = None, port: int | None = None) -> None:
    """Serve the HTTP API.

    Args:
        host: Address to listen on (127.0.0.1).
        port: Port to listen on (8080); 0 takes a free one.
    """
    settings = from_environment({"listen_host": host, "listen_port": port})
    configure_logs(settings)
    serve(settings, _announce)


def worker(*roles: Annotated[str, Parameter(help="planner, executor, reviewer, or a queue's name.")]) -> None:
    """Run one worker process; for all roles unless some are named."""
    # The workers' own program: the service never imports what runs agents.
    os.execv(sys.executable, [sys.executable, "-m", "workers", *roles])  # noqa: S606 - no shell is what we want


def loops() -> None:
    """Run the background loops; several instances may run at once."""
    settings = from_environment()
    configure_logs(settings)
    run_loops(settings)


def _announce(url: str) -> None:
    sys.stderr.write(f"the API listens on {url}\n")
    sys.stderr.flush()
