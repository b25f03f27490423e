"""`python -m workers [ROLE or QUEUE ...]`: one worker process, serving all roles unless told which."""

import sys

from contracts.errors import InvalidInput, OrchestratorError
from shared_state.logs import configure_logs
from shared_state.settings import from_environment
from workers.app import run_worker


def main() -> int:
    try:
        settings = from_environment()
        configure_logs(settings)
        run_worker(settings, sys.argv[1:])
    except OrchestratorError as error:
        sys.stderr.write(f"worker: {error.text}\n")
        return 2 if isinstance(error, InvalidInput) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
