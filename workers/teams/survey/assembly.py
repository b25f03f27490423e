"""Puts the readings together again: what was surveyed, what could not be, and what is missing."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from workers.gates.facts import Problem
from workers.gates.sources import is_python
from workers.teams.survey.shapes import Joint, Listing, Read, Reading, Skipped

# What a tree may hold without anything being wrong with it: links to its own files, and files that are not text.
_ORDINARY = frozenset({"symlink"})
_NOT_TEXT = frozenset({"nul_bytes", "encoding"})


@dataclass(frozen=True)
class Assembled:
    """`lost` are files whose step ended without an output. `degraded` is null for a survey that misses nothing."""

    root: str
    prefix: tuple[str, ...]
    files: list[Reading]
    problems: list[Problem]
    skipped: list[Skipped]
    lost: list[str]
    left_out: int
    degraded: str | None


def assemble(joint: Joint, listing: Listing, readings: Mapping[str, Read]) -> Assembled:
    lost = sorted(path for key, paths in listing.groups.items() if key not in readings for path in paths)
    problems = sorted((each for reading in readings.values() for each in reading.problems), key=lambda each: each.path)
    files = sorted((each for reading in readings.values() for each in reading.files), key=lambda each: each.path)
    missing = [_describe(problems)]
    if lost:
        missing.append(f"{len(lost)} files of steps that ended without an output")
    if listing.left_out:
        missing.append(f"{listing.left_out} files beyond the limit")
    if unfollowed(files):
        missing.append(f"imports of {len(unfollowed(files))} files with too many of them, so no unused modules")
    unlisted = sum(each.reason.startswith(("cannot", "more than")) for each in listing.skipped)
    if unlisted:
        missing.append(f"{unlisted} folders that could not be listed or lie too deep")
    return Assembled(
        root=joint.root,
        prefix=joint.prefix,
        files=files,
        problems=problems,
        skipped=listing.skipped,
        lost=lost,
        left_out=listing.left_out,
        degraded="; ".join(filter(None, missing)) or None,
    )


def degradation(output: Read) -> str | None:
    """What one reading misses, in words; null if nothing."""
    return _describe(output.problems) or None


def matters(problem: Problem) -> bool:
    """Whether a survey of source code misses something by this problem."""
    if problem.problem in _NOT_TEXT:
        return is_python(problem.path)
    return problem.problem not in _ORDINARY


def unfollowed(files: list[Reading]) -> list[str]:
    """Files that import or name more modules than a reading tells."""
    return [each.path for each in files if "imports" in each.omitted or "mentions" in each.omitted]


def _describe(problems: list[Problem]) -> str:
    counts = Counter(problem.problem for problem in problems if matters(problem))
    if not counts:
        return ""
    return "not fully read: " + ", ".join(f"{count} {code}" for code, count in sorted(counts.items()))
