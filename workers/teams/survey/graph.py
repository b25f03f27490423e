"""The module graph: which file imports which, and which modules nobody imports."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from workers.teams.survey.assembly import unfollowed
from workers.teams.survey.resolve import Resolver, module_name
from workers.teams.survey.shapes import Edge, Reading, Unused

_MODULE = (".py", ".pyw")
# Files that tools run or import by themselves; so do they with all in a folder `migrations`, and with what has a name
# that no import statement could spell.
_RUN_BY_TOOLS = frozenset({"__init__", "__main__", "setup", "conftest", "noxfile", "manage", "sitecustomize"})
_TEST = re.compile(r"^(test_.*|.*_test|tests?)$")


@dataclass(frozen=True)
class Graph:
    """`modules` are dotted names by path; `edges` are one per pair of files, with the first line that imports."""

    modules: Mapping[str, str]
    edges: list[Edge]
    unused: list[Unused]


def build_graph(files: list[Reading], prefix: tuple[str, ...]) -> Graph:
    modules = {each.path: module_name(each.path, prefix) for each in files if each.path.endswith(_MODULE)}
    edges = list(_edges(files, modules, prefix))
    reached = {edge.target for edge in edges}
    reached.update(mention.target for each in files for mention in each.mentions)
    # A file whose imports are not all known may be the one that imports.
    candidates = [] if unfollowed(files) else files
    unused = [
        Unused(path=each.path, module=modules[each.path], size_bytes=each.size_bytes, line_count=each.line_count)
        for each in candidates
        if each.path.endswith(".py") and each.path not in reached and not _has_another_use(each)
    ]
    return Graph(modules, edges, unused)


def _edges(files: list[Reading], modules: Mapping[str, str], prefix: tuple[str, ...]) -> Iterable[Edge]:
    folders = {folder for path in modules for folder in _folders_above(path)}
    resolver = Resolver(modules.__contains__, folders.__contains__, prefix)
    for each in files:
        seen: set[str] = set()
        for made in each.imports if each.path in modules else ():
            for target in resolver.targets(each.path, made.module, made.names, made.level):
                if target not in seen:
                    seen.add(target)
                    yield Edge(path=each.path, line=made.line, text=made.text, target=target)


def _folders_above(path: str) -> Iterable[str]:
    parts = path.split("/")[:-1]
    return ("/".join(parts[:count]) for count in range(len(parts) + 1))


def _has_another_use(reading: Reading) -> bool:
    """Whether something other than an import is what the file is for: a program, a package, a test, a tool's file."""
    *folders, name = reading.path.split("/")
    stem = name.rpartition(".")[0]
    by_tool = stem in _RUN_BY_TOOLS or "migrations" in folders or not stem.isidentifier()
    return by_tool or reading.entry is not None or is_test(reading.path)


def is_test(path: str) -> bool:
    """Whether a file is a test, or lies in a folder of tests, by its name."""
    return any(_TEST.match(part.partition(".")[0]) for part in path.split("/"))
