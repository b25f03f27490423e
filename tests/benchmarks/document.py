"""The file every measurement writes: `build/<name>.json`."""

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class Document:
    """Begun before the measurement, written after it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._started = time.monotonic()
        self._started_at = datetime.now(UTC)
        self._yardstick_ms = [yardstick_ms()]

    def write(
        self,
        path: Path,
        *,
        machine: Mapping[str, object],
        rows: Sequence[Mapping[str, object]],
        summary: Mapping[str, object],
        **more: object,
    ) -> float:
        """Returns the seconds since it was begun."""
        seconds = time.monotonic() - self._started
        document = {
            "name": self.name,
            "started_at": self._started_at.isoformat(),
            "seconds": seconds,
            "machine": {**machine, "yardstick_ms": [*self._yardstick_ms, yardstick_ms()]},
            "seeds": [],
            "rows": rows,
            **more,
            "summary": summary,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        return seconds


def read_document(path: Path) -> dict[str, Any] | None:
    """None where that measurement was not made."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def yardstick_ms() -> float:
    """Processor time of a million additions: what absolute figures of another day, or hour, may be divided by."""
    started, total = time.process_time(), 0
    for number in range(1_000_000):
        total += number
    return 1000 * (time.process_time() - started)
