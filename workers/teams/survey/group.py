"""Groups files into steps, so that a tree of any size fits a plan and no step is much larger than the others."""

from collections.abc import Mapping

from workers.gates.sources import READ_LIMIT_BYTES

STEPS_GOAL = 99
"""One file per step up to so many files; beyond it, at most three times as many steps."""
FACTS_GOAL = 2_000_000


def group_files(files: Mapping[str, int]) -> dict[str, list[str]]:
    """Files by the id of the step that reads them, in the order given. `files` are sizes in bytes by path."""
    weights = {path: min(size, READ_LIMIT_BYTES) for path, size in files.items()}
    count_limit = -(-len(files) // STEPS_GOAL)
    weight_limit = sum(weights.values()) / STEPS_GOAL
    groups: list[list[str]] = []
    weight = 0
    for path, size in weights.items():
        if not groups or len(groups[-1]) >= count_limit or (weight + size > weight_limit and weight > 0):
            groups.append([])
            weight = 0
        groups[-1].append(path)
        weight += size
    return {f"read-{index:03}": group for index, group in enumerate(groups, start=1)}


def facts_limit(file_count: int) -> int:
    """How many facts of one kind a file may have, so that what the joining step gets stays within its bounds."""
    return max(20, min(2000, FACTS_GOAL // max(1, file_count)))
