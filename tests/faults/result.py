"""What a row came to."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.faults.tally import Tally


@dataclass
class Result:
    """`problems` are empty if and only if everything held. `skipped` says why the row could not run here."""

    name: str
    fault: str
    holds: str
    seed: int
    seconds: float = 0.0
    rest_seconds: float = 0.0
    skipped: str | None = None
    ablation: str | None = None
    injected: dict[str, int] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    broken: bool = False
    """Whether the row itself came to nothing: then it shows nothing, with a guard off neither."""
    tally: Tally = field(default_factory=Tally)
    looks: int = 0
    missed_looks: int = 0
    violations: int = 0

    @property
    def held(self) -> bool:
        return not self.problems

    @property
    def fine(self) -> bool:
        """As it should be: everything held, or, with a guard off, something did not."""
        return self.skipped is not None or (not self.broken and self.held == (self.ablation is None))

    @classmethod
    def read(cls, document: dict[str, Any]) -> "Result":
        """From what `document` made."""
        given = {name: value for name, value in document.items() if name not in ("held", "fine", "tally")}
        return cls(**given, tally=Tally(**document["tally"]))

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "held": self.held, "fine": self.fine}


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that `share` of the values do not exceed; null of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)] if ordered else None
