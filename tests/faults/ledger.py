"""What the bodies wrote down themselves, outside the database."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Step = tuple[str, str]
"""(task id, step key)."""


class Ledger:
    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> Iterator[dict[str, Any]]:
        if self.path.exists():
            with self.path.open(encoding="utf-8") as stream:
                for line in stream:
                    yield json.loads(line)

    def bodies(self) -> Counter[Step]:
        """How often each step's body began."""
        return Counter((line["task"], line["step"]) for line in self.lines() if line["what"] == "began")

    def seen(self) -> dict[Step, set[str]]:
        """By step, the nonces of its output that the bodies of other steps were given."""
        found: dict[Step, set[str]] = defaultdict(set)
        for line in self.lines():
            for key, nonce in line.get("saw", {}).items():
                found[line["task"], key].add(nonce)
        return found

    def body_seconds(self, step: str) -> list[float]:
        """How long each body of the steps of that key lived, by its own ticks."""
        spans: dict[tuple[str, int], list[float]] = defaultdict(list)
        for line in self.lines():
            if line["step"] == step and line["what"] in ("began", "ticks"):
                spans[line["task"], line["attempt"]].append(line["at"])
        return [max(at) - min(at) for at in spans.values()]

    def last_ticks(self) -> dict[tuple[str, str, int], float]:
        """By (task id, step key, attempt) when its body last said that it runs."""
        return {
            (line["task"], line["step"], line["attempt"]): line["at"]
            for line in self.lines()
            if line["what"] in ("began", "ticks")
        }

    def released_unreviewed(self) -> set[Step]:
        """Drafts that another body was given before a reviewer had seen that very output."""
        reviewed: set[tuple[str, str]] = set()
        found: set[Step] = set()
        for line in self.lines():
            if line["what"] == "reviewed":
                reviewed.add((line["task"], line["nonce"]))
            for key, nonce in line.get("saw", {}).items():
                if key.startswith("draft") and (line["task"], nonce) not in reviewed:
                    found.add((line["task"], key))
        return found
