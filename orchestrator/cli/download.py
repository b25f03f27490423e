"""Write a task's result, and the artifacts it names, to a directory."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contracts.errors import Misconfigured
from orchestrator.client import Client
from shared_state.shapes import Result

_REFERENCE = {"sha256", "size_bytes", "media_type"}
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def save_result(client: Client, result: Result, directory: Path) -> list[Path]:
    """`result.json` and one file an artifact, named after its place in the outputs; the paths written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        written = [directory / "result.json"]
        written[0].write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        taken = {"result.json"}
        for place, sha256 in _references(result["outputs"], ()):
            path = directory / _free_name(place, taken)
            path.write_bytes(client.artifact(sha256))
            written.append(path)
    except OSError as error:
        raise Misconfigured(f"--output: cannot write to {directory}: {error.strerror}") from None
    return written


def _references(value: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, dict):
        if set(value) == _REFERENCE:
            yield place, value["sha256"]
            return
        for key, item in value.items():
            yield from _references(item, (*place, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _references(item, (*place, str(index)))


def _free_name(place: tuple[str, ...], taken: set[str]) -> str:
    """The last part of the place, and as much of what is before it as makes it unique. Never leaves the directory."""
    parts = [_UNSAFE.sub("_", part).lstrip(".")[:100] or "_" for part in place] or ["output"]
    for start in range(len(parts) - 1, -1, -1):
        name = "-".join(parts[start:])[-200:]
        if name not in taken:
            break
    else:
        name = f"{len(taken)}-{parts[-1]}"
    taken.add(name)
    return name
