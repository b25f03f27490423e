"""What a step does on both sides: hand its input on, after an optional nap and an optional line in a journal."""

import os
import time

from pydantic import BaseModel, ConfigDict


class Item(BaseModel):
    """What is handed from step to step: about 1 KiB of JSON.

    `nap_seconds` keeps a body running, `journal` names a file that gets a line per body that began (both for W4).
    """

    model_config = ConfigDict(extra="forbid")

    text: str
    nap_seconds: float = 0.0
    journal: str | None = None


def do_step(item: Item, workflow: str, step: str) -> None:
    """One body. The line is one short append, so lines of several processes do not mix."""
    if item.journal is not None:
        descriptor = os.open(item.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(descriptor, f"{workflow} {step}\n".encode())
        finally:
            os.close(descriptor)
    if item.nap_seconds:
        time.sleep(item.nap_seconds)
