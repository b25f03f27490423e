"""`watch`: a live picture in a terminal, one line an event in a pipe."""

import sys
from collections import Counter

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.cli import output
from orchestrator.client import Client
from shared_state.shapes import Event

_LAST = 10


def watch(task: str) -> int:
    """Follow a task until it ends; exits 0 only if it succeeded."""
    with Client() as client:
        if sys.stdout.isatty():
            _draw(client, task)
        else:
            for event in client.events(task):
                output.line(_line(event))
                sys.stdout.flush()
        ended = client.task(task)
    error = ended["error"]
    output.line(
        f"task {ended['state']}{' (degraded)' if ended['degraded'] else ''}"
        + (f": {error['code']}: {error['text']}" if error else "")
    )
    return 0 if ended["state"] == "succeeded" else 1


def _draw(client: Client, task: str) -> None:
    """Events by type, and the last of them."""
    last: list[str] = []
    kinds: Counter[str] = Counter()
    with Live(console=Console(), refresh_per_second=8, transient=True) as live:
        for event in client.events(task):
            kinds[event["type"]] += 1
            last = [*last, _line(event)][-_LAST:]
            live.update(_picture(task, kinds, last))


def _picture(task: str, kinds: Counter[str], last: list[str]) -> Table:
    grid = Table.grid()
    grid.add_row(Text(f"task {task}", style="bold"))
    grid.add_row(Text("  ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())), style="cyan"))
    for text in last:
        grid.add_row(Text(text))
    return grid


def _line(event: Event) -> str:
    step = f" {event['step_key']}" if event["step_key"] else ""
    said = f": {event['data'].get('text')}" if event["type"] == "step.progressed" else ""
    return output.clean(f"{output.moment(event['at'])} {event['type']}{step}{said}")
