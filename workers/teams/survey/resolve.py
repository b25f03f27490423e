"""Which file of the tree an import means, as Python would find it from the importing file.

A name is looked up in every folder above the importing file that is not a package, nearest first, and in that
folder's `src`. The first that has the name's first part wins. Nothing outside the tree is looked at.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Located:
    """The deepest file found on the way, and the folder of submodules where the whole name was found."""

    file: str | None
    folder: str | None


class Resolver:
    """`is_file` and `is_folder` answer for paths relative to the root; the root itself is the empty path."""

    def __init__(
        self, is_file: Callable[[str], bool], is_folder: Callable[[str], bool], prefix: tuple[str, ...]
    ) -> None:
        self._is_file = is_file
        self._is_folder = is_folder
        self._prefix = prefix

    def targets(self, importer: str, module: str, names: list[str], level: int) -> list[str]:
        """The files an import statement loads by name, without the importer itself."""
        parts = [part for part in module.split(".") if part]
        located = self._relative(importer, parts, level) if level else self._absolute(importer, parts)
        if located is None:
            return []
        found: dict[str, None] = {}
        for name in names:
            submodule = None if located.folder is None else self._module(located.folder, name)
            target = submodule or located.file
            if target is not None:
                found[target] = None
        if not names and located.file is not None:
            found[located.file] = None
        found.pop(importer, None)
        return list(found)

    def named(self, mentioner: str, word: str) -> str | None:
        """The file that a dotted name (or one and an attribute), or a path, names in full."""
        if word.endswith(".py"):
            if any(part in ("", ".", "..") for part in word.split("/")):
                return None
            folder = _parent(mentioner)
            beside = f"{folder}/{word}" if folder else word
            return next((path for path in (word, beside) if self._is_file(path)), None)
        parts = word.split(".")
        located = self._absolute(mentioner, parts)
        if located is None or located.file is None:
            return None
        stem = located.file.removesuffix("/__init__.py").removesuffix(".py")
        depth = stem.rpartition("/")[2]
        # `package.module.attribute` names the module; `package.absent.attribute` names nothing.
        return located.file if depth in parts[-2:] else None

    def _relative(self, importer: str, parts: list[str], level: int) -> Located | None:
        folder = _parent(importer)
        for _ in range(level - 1):
            if not folder:
                return None
            folder = _parent(folder)
        return self._locate(folder, parts)

    def _absolute(self, importer: str, parts: list[str]) -> Located | None:
        if self._prefix and tuple(parts[: len(self._prefix)]) == self._prefix:
            return self._locate("", parts[len(self._prefix) :])
        for base in self._bases(importer):
            located = self._locate(base, parts)
            if located is not None:
                return located
        return None

    def _bases(self, importer: str) -> Iterator[str]:
        folder = _parent(importer)
        while True:
            if not self._is_package(folder):
                yield folder
                source = f"{folder}/src" if folder else "src"
                if self._is_folder(source) and not self._is_package(source):
                    yield source
            if not folder:
                return
            folder = _parent(folder)

    def _is_package(self, folder: str) -> bool:
        return self._is_file(f"{folder}/__init__.py" if folder else "__init__.py")

    def _locate(self, base: str, parts: list[str]) -> Located | None:
        """Null where the first part is not there at all."""
        folder = base
        initial = f"{base}/__init__.py" if base else "__init__.py"
        file = initial if not parts and self._is_file(initial) else None
        for index, part in enumerate(parts):
            inner = f"{folder}/{part}" if folder else part
            if self._is_file(f"{inner}/__init__.py"):
                file = f"{inner}/__init__.py"
            elif self._is_file(f"{inner}.py"):
                return Located(f"{inner}.py", None)
            elif not self._is_folder(inner):
                return None if index == 0 else Located(file, None)
            folder = inner
        return Located(file, folder)

    def _module(self, folder: str, name: str) -> str | None:
        inner = f"{folder}/{name}" if folder else name
        return next((path for path in (f"{inner}/__init__.py", f"{inner}.py") if self._is_file(path)), None)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def module_name(path: str, prefix: tuple[str, ...]) -> str:
    """The dotted name of a module's file, counted from the root (or from above the package the root lies in)."""
    stem = path.removesuffix(".pyw").removesuffix(".py")
    parts = [part for part in stem.split("/") if part]
    if parts and parts[-1] == "__init__":
        parts.pop()
    return ".".join((*prefix, *parts)) or "__init__"
