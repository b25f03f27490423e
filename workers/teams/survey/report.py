"""The report: everything found as JSON, and the part worth reading as Markdown, as a page and as a picture."""

import json
from dataclasses import dataclass

from workers.gates.facts import FileFact
from workers.teams.survey.assembly import Assembled, matters
from workers.teams.survey.graph import Graph
from workers.teams.survey.markdown import write_markdown
from workers.teams.survey.page import write_page
from workers.teams.survey.picture import draw
from workers.teams.survey.python import FUNCTIONS_LIMIT
from workers.teams.survey.shapes import Function, Summary
from workers.teams.survey.walk import DEPTH_LIMIT, SKIP_MARKERS, SKIPPED_ENDINGS, SKIPPED_FOLDERS

TOP_LIMIT = FUNCTIONS_LIMIT
UNUSED_LIMIT = 100
PROBLEMS_LIMIT = 200


@dataclass(frozen=True)
class Report:
    """`files` are bytes and media type by file name."""

    summary: Summary
    files: dict[str, tuple[bytes, str]]


def write_report(survey: Assembled, graph: Graph) -> Report:
    summary = _summarise(survey, graph)
    picture = draw(graph, survey.files)
    texts = {
        "report.json": (_as_json(survey, graph, summary), "application/json"),
        "report.md": (write_markdown(survey, graph, summary), "text/markdown"),
        "report.html": (write_page(survey, graph, summary, picture), "text/html"),
        "graph.svg": (picture, "image/svg+xml"),
    }
    return Report(summary, {name: (text.encode(), media_type) for name, (text, media_type) in texts.items()})


def _summarise(survey: Assembled, graph: Graph) -> Summary:
    files = survey.files
    largest = sorted(files, key=lambda each: (-each.size_bytes, each.path))[:TOP_LIMIT]
    # Problems that a reader should look at come first.
    problems = sorted(survey.problems, key=lambda each: (not matters(each), each.path))
    return Summary(
        root=survey.root,
        file_count=len(files),
        module_count=len(graph.modules),
        package_count=sum(path.endswith("__init__.py") for path in graph.modules),
        line_count=sum(each.line_count or 0 for each in files),
        size_bytes=sum(each.size_bytes for each in files),
        edge_count=len(graph.edges),
        public_name_count=sum(len(each.names) + each.omitted.get("names", 0) for each in files),
        function_count=sum(each.function_count for each in files),
        mark_count=sum(len(each.marks) + each.omitted.get("marks", 0) for each in files),
        unused_count=len(graph.unused),
        problem_count=len(survey.problems),
        lost_count=len(survey.lost),
        largest=[FileFact(**each.model_dump(include=set(FileFact.model_fields))) for each in largest],
        longest=longest_functions(survey)[:TOP_LIMIT],
        unused=graph.unused[:UNUSED_LIMIT],
        problems=problems[:PROBLEMS_LIMIT],
    )


def longest_functions(survey: Assembled) -> list[Function]:
    """The longest functions of the tree, longest first. Exact for the first `FUNCTIONS_LIMIT`."""
    functions = [each for file in survey.files for each in file.functions]
    return sorted(functions, key=lambda each: (-each.length_lines, each.path, each.line))


def _as_json(survey: Assembled, graph: Graph, summary: Summary) -> str:
    files = [{"module": graph.modules.get(each.path), **each.model_dump(mode="json")} for each in survey.files]
    return json.dumps(
        {
            "format": 1,
            "root": survey.root,
            "prefix": list(survey.prefix),
            "rules": {
                "skipped_folders": sorted(SKIPPED_FOLDERS),
                "skipped_endings": sorted(SKIPPED_ENDINGS),
                "skip_markers": sorted(SKIP_MARKERS),
                "depth_limit": DEPTH_LIMIT,
            },
            "summary": summary.model_dump(mode="json"),
            "degraded": survey.degraded,
            "files": files,
            "edges": [each.model_dump(mode="json") for each in graph.edges],
            "unused": [each.model_dump(mode="json") for each in graph.unused],
            "problems": [each.model_dump(mode="json") for each in survey.problems],
            "skipped": [each.model_dump(mode="json") for each in survey.skipped],
            "lost": survey.lost,
            "left_out": survey.left_out,
        },
        ensure_ascii=False,
        indent=1,
    )
