"""`scale`: how many worker processes a running dev server has."""

from contracts.errors import InvalidInput
from orchestrator.cli import output
from orchestrator.dev.counts import ask_for
from shared_state.settings import from_environment


def scale(change: str) -> None:
    """Set how many worker processes a running dev server has.

    Args:
        change: ROLE=N, like executor=4; `worker` are those that serve all roles.
    """
    pool, equals, number = change.partition("=")
    if not equals or not number.isascii() or not number.isdigit() or len(number) > 9:
        raise InvalidInput(f"{change!r} is not ROLE=N, like executor=4", field="ROLE=N")
    data_dir = from_environment().data_dir
    ask_for(data_dir, pool, int(number))
    output.line(f"asked for {number} {pool} processes; `orchestrator workers` shows them in a moment")
