"""`top`: a live screen for whoever is on call. In a pipe, or with --once, the same as plain text."""

import sys
import time
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.live import Live

from contracts.errors import Unavailable
from orchestrator.cli import output
from orchestrator.cli.output import Json
from orchestrator.cli.screen import Look, draw
from orchestrator.client import Client

EVERY_SECONDS = 1.0
_PATIENCE = 20.0
"""A service that takes long to answer is asked less often: it spends no more than so small a part of its time on us."""


def top(*, once: Annotated[bool, Parameter(negative="")] = False, json: Json = False) -> None:
    """Watch queues, workers, oldest work, dead letters, pauses and limits. Ctrl-C ends it.

    Args:
        once: Print it once, as text, after a second of looking.
        json: Print it once, as JSON.
    """
    with Client() as client:
        if json:
            output.document(_second_look(client).overview)
        elif once or not sys.stdout.isatty():
            console = Console(width=None if sys.stdout.isatty() else 120)
            console.print(draw(_second_look(client), console.width, None))
        else:
            _watch(client)


def _second_look(client: Client) -> Look:
    """Two of them, a second apart: rates need both."""
    first = _look(client, None)
    time.sleep(EVERY_SECONDS)
    return _look(client, first)


def _look(client: Client, before: Look | None) -> Look:
    began = time.monotonic()
    found = client.overview(before.overview["cursor"] if before else None)
    now = time.monotonic()
    return Look(client.url, found, began, now - began, now - before.at if before else None)


def _watch(client: Client) -> None:
    look = _look(client, None)
    console = Console()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(draw(look, console.width, console.height), refresh=True)
            try:
                time.sleep(max(EVERY_SECONDS, _PATIENCE * look.answer_seconds))
                look = _look(client, look)
            except Unavailable as error:
                look = look.without_answer(error.text)
            except KeyboardInterrupt:
                return
