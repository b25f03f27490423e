"""What of a survey is worth a person's eyes; the rest is in `report.json`."""

from collections import Counter
from dataclasses import dataclass

from workers.gates.facts import Fact
from workers.teams.survey.assembly import Assembled
from workers.teams.survey.graph import Graph, is_test
from workers.teams.survey.shapes import Mark, Name

CENTRAL_LIMIT = 20
MARKS_LIMIT = 150
MODULES_LIMIT = 300
NAMES_LIMIT = 40
UNUSED_NOTE = (
    "No file of the tree imports or names these, and they do not look like programs, tests or packages. "
    "What is loaded by a name that is put together while running (plug-ins, codecs) cannot be seen here."
)


@dataclass(frozen=True)
class Central:
    module: str
    path: str
    importers: int
    imports: int
    lines: int


@dataclass(frozen=True)
class PublicModule:
    """`name_count` is how many public names it has; `names` are the first of them."""

    module: str
    path: str
    doc: Fact | None
    names: list[Name]
    name_count: int


@dataclass(frozen=True)
class Highlights:
    central: list[Central]
    modules: list[PublicModule]
    modules_left_out: int
    marks: list[Mark]


def choose(survey: Assembled, graph: Graph) -> Highlights:
    public = _public_modules(survey, graph)
    marks = [mark for each in survey.files for mark in each.marks]
    return Highlights(
        central=_central(survey, graph),
        modules=public[:MODULES_LIMIT],
        modules_left_out=len(public) - len(public[:MODULES_LIMIT]),
        # Those of tests last: there they are often data.
        marks=sorted(marks, key=lambda mark: (is_test(mark.path), mark.path, mark.line))[:MARKS_LIMIT],
    )


def _central(survey: Assembled, graph: Graph) -> list[Central]:
    importers = Counter(edge.target for edge in graph.edges)
    imports = Counter(edge.path for edge in graph.edges)
    lines = {each.path: each.line_count or 0 for each in survey.files}
    most = sorted(importers.items(), key=lambda item: (-item[1], item[0]))[:CENTRAL_LIMIT]
    return [Central(graph.modules[path], path, count, imports[path], lines[path]) for path, count in most]


def _public_modules(survey: Assembled, graph: Graph) -> list[PublicModule]:
    return [
        PublicModule(
            module=graph.modules[each.path],
            path=each.path,
            doc=each.doc,
            names=each.names[:NAMES_LIMIT],
            name_count=len(each.names) + each.omitted.get("names", 0),
        )
        for each in survey.files
        if each.path in graph.modules and each.names and not is_test(each.path)
    ]
