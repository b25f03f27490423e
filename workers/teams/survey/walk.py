"""Lists what there is to survey under a folder, always in the same order, and never through a link."""

import os
from dataclasses import dataclass, field

from workers.gates.sources import spell
from workers.teams.survey.shapes import Skipped

DEPTH_LIMIT = 40
SKIPPED_FOLDERS = frozenset(
    {".git", ".hg", ".svn", ".bzr", "__pycache__", "node_modules", "site-packages", "dist-packages"}
    | {".tox", ".nox", ".eggs", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".orchestrator"}
)
SKIPPED_ENDINGS = (".egg-info", ".dist-info")
# Files that say what their folder is: a virtual environment (PEP 405), a cache (bford.info/cachedir).
SKIP_MARKERS = ("pyvenv.cfg", "CACHEDIR.TAG")


@dataclass
class Found:
    """Files with their sizes in bytes, by spelled path; everything that is not a folder counts as a file here."""

    files: dict[str, int] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    left_out: int = 0


def resolve_root(path: str) -> str | None:
    """The real, absolute path of a folder that can be listed, or null."""
    try:
        root = os.path.realpath(os.path.expanduser(path), strict=True)
        with os.scandir(root):
            return root
    except (OSError, ValueError):
        return None


def package_prefix(root: str) -> tuple[str, ...]:
    """The dotted name, part by part, of the package that `root` is itself; empty where it is none."""
    parts: list[str] = []
    while os.path.isfile(os.path.join(root, "__init__.py")) and root != os.path.dirname(root):
        root, name = os.path.split(root)
        parts.insert(0, name)
    return tuple(parts)


def walk(root: str, files_limit: int) -> Found:
    """Depth first, folders before files, by name."""
    found = Found()
    waiting: list[tuple[str, int]] = [("", 0)]
    while waiting:
        folder, depth = waiting.pop()
        reason = _why_skipped(root, folder, depth)
        entries = [] if reason else _list(root, folder)
        if reason or entries is None:
            found.skipped.append(Skipped(folder=spell(folder), reason=reason or "cannot be listed"))
            continue
        inner: list[tuple[str, int]] = []
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                inner.append((path, depth + 1))
            elif len(found.files) >= files_limit:
                found.left_out += 1
            else:
                found.files[spell(path)] = _size(entry)
        waiting.extend(reversed(inner))
    return found


def _list(root: str, folder: str) -> list[os.DirEntry[str]] | None:
    try:
        with os.scandir(os.path.join(root, folder)) as entries:
            return sorted(entries, key=lambda entry: os.fsencode(entry.name))
    except OSError:
        return None


def _why_skipped(root: str, folder: str, depth: int) -> str | None:
    """Null for a folder to enter. The root itself is never skipped: it was asked for."""
    name = folder.rpartition("/")[2]
    if not folder:
        return None
    if name in SKIPPED_FOLDERS or name.endswith(SKIPPED_ENDINGS):
        return "holds no source of this tree, by its name"
    if depth > DEPTH_LIMIT:
        return f"more than {DEPTH_LIMIT} folders deep"
    for marker in SKIP_MARKERS:
        if os.path.lexists(os.path.join(root, folder, marker)):
            return f"holds no source of this tree, by its {marker}"
    return None


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0
