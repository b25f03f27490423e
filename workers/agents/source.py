"""Where an agent's code lies on disk: found without importing it, hashed for the attempt's record."""

import hashlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

Fingerprint = tuple[tuple[str, int, int], ...]


def find_source(module: str) -> tuple[Path, ...]:
    """The source files of a module that may not be imported yet; empty where it cannot be found.

    Asks the import system's finders one package at a time, because `importlib.util.find_spec` imports the parents.
    """
    spec: ModuleSpec | None = None
    path: Sequence[str] | None = None
    name = ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = _find_spec(name, path)
        if spec is None:
            return ()
        path = list(spec.submodule_search_locations) if spec.submodule_search_locations is not None else []
    return files_of(spec)


def files_of(spec: ModuleSpec | None) -> tuple[Path, ...]:
    """The module's own file, or all files beside it where it is part of a package; sorted by name."""
    if spec is None or not spec.has_location or spec.origin is None:
        return ()
    origin = Path(spec.origin)
    if not spec.parent:
        return (origin,)
    return tuple(sorted({origin, *origin.parent.glob("*.py")}))


def take_fingerprint(files: Sequence[Path]) -> Fingerprint:
    """Changes when a file is edited: path, modification time in nanoseconds and size of each."""
    taken = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            continue
        taken.append((str(file), status.st_mtime_ns, status.st_size))
    return tuple(taken)


def hash_files(files: Sequence[Path]) -> str:
    """SHA-256 in hex over the files' names and bodies; where they lie does not matter."""
    total = hashlib.sha256()
    for file in files:
        try:
            body = file.read_bytes()
        except OSError:
            continue
        total.update(file.name.encode() + b"\0" + hashlib.sha256(body).digest())
    return total.hexdigest()


def _find_spec(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, path)
        except (ImportError, KeyError, AttributeError, ValueError):
            # A namespace package below another one cannot be looked up without importing its parent.
            return None
        if spec is not None:
            return spec
    return None
