"""Guards taken away, in the processes of one row only: the row must then fail, otherwise it proves nothing.

Nothing in the product knows of this. The nursery calls `install` before it imports what it will fork.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Ablation:
    install: Callable[[], None]


ABLATIONS: Mapping[str, Ablation] = {}
