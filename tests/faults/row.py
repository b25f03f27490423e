"""A row of the fault matrix: what is injected, into which house, and what must hold besides the invariants."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.faults.load import MIXED, Make
from tests.faults.scene import Scene

Inject = Callable[[Scene], None]


def always() -> str | None:
    return None


@dataclass(frozen=True)
class Row:
    """One row. `inject` runs while the load is on and ends by itself when `scene.over()`; what it finds wrong it says
    with `scene.problem`. After it the load stops, everything must come to rest, and the counts are taken.

    `seconds` is the row's share of a full run; `shortest` what it needs at least to show anything.
    """

    name: str
    fault: str
    """What is injected, in a few words."""
    holds: str
    """What must hold besides: every task ends as it should, no double commit, no zombie commit, no violation."""
    inject: Inject
    seconds: float = 25.0
    shortest: float = 8.0
    workers: int = 4
    roles: Sequence[Sequence[str]] = ((),)
    """Roles of the workers, in turn; nothing means all roles."""
    slots: int = 12
    settings: Mapping[str, object] = field(default_factory=dict)
    """Over those of `scene.SETTINGS`."""
    proxied: frozenset[str] = frozenset()
    """Which servers the product reaches through a proxy: `postgres`, `redis`."""
    api: bool = False
    """Whether the load comes in over HTTP."""
    rate: float = 6.0
    open_limit: int = 60
    shapes: Sequence[Make] = MIXED
    nap_seconds: tuple[float, float] = (0.02, 0.3)
    rest_seconds: float = 60.0
    """How long everything may take to come to rest once the fault is over."""
    seen_target: float | None = None
    """p99, in seconds, from a kill that a supervisor sees until the interrupted steps run again."""
    unseen_target: float | None = None
    """The same where only the lapsed lease tells."""
    permitted: Callable[[], str | None] = always
    """Why this machine cannot run the row; null where it can."""
    ablation: str | None = None
    """The guard that is taken away: then the row must fail."""
