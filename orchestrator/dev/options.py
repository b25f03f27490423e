"""What a person may say about a dev server, and the numbers of workers that follow from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from contracts.errors import InvalidInput

ROLES = ("executor", "reviewer", "planner")
ALL_ROLES = "worker"
"""The pool whose processes serve all roles."""
POOLS = (ALL_ROLES, *ROLES)
DEFAULT_WORKERS = 2
MOST_WORKERS = 64


@dataclass(frozen=True)
class Options:
    """None means not said: the settings or the default decide. `port` 0 takes a free one."""

    data_dir: Path | None = None
    port: int | None = None
    executors: int | None = None
    reviewers: int | None = None
    planners: int | None = None
    flower: bool = True
    database_url: str | None = None
    broker_url: str | None = None
    teams: Path | None = None
    embedded: bool = False
    """Embedded servers even where the settings name others."""

    def counts(self) -> dict[str, int]:
        """Worker processes by pool: two that serve all roles, or one pool a role as soon as one number was said."""
        said = dict(zip(ROLES, (self.executors, self.reviewers, self.planners), strict=True))
        if all(count is None for count in said.values()):
            return {ALL_ROLES: DEFAULT_WORKERS, **dict.fromkeys(ROLES, 0)}
        return {ALL_ROLES: 0, **{role: checked_count(role, 1 if n is None else n) for role, n in said.items()}}


def checked_count(pool: str, count: int) -> int:
    """Raises `InvalidInput` for a pool that does not exist or a number nobody means."""
    if pool not in POOLS:
        raise InvalidInput(f"{pool!r} is no pool of workers; use one of {', '.join(POOLS)}", field="role")
    if not 0 <= count <= MOST_WORKERS:
        raise InvalidInput(f"{pool}: {count} worker processes are not between 0 and {MOST_WORKERS}", field=pool)
    return count


def merged_counts(counts: Mapping[str, int], asked: Mapping[str, int]) -> dict[str, int]:
    """`counts` with what was asked for in their place."""
    return {**counts, **{pool: checked_count(pool, count) for pool, count in asked.items()}}
