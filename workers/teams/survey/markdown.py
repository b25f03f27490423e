"""The report as Markdown: what a person reads first, each fact with its file and line."""

import re
from collections.abc import Iterable

from workers.gates.facts import Fact
from workers.teams.survey.assembly import Assembled
from workers.teams.survey.graph import Graph
from workers.teams.survey.highlights import UNUSED_NOTE, Highlights, choose
from workers.teams.survey.shapes import Summary

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|!&~])")


def write_markdown(survey: Assembled, graph: Graph, summary: Summary) -> str:
    chosen = choose(survey, graph)
    parts = [
        f"# Survey of {_escape(survey.root)}",
        _figures(summary),
        f"**Not complete:** {_escape(survey.degraded)}." if survey.degraded else "",
        "The picture of the module graph is `graph.svg`; everything found is in `report.json`.",
        "## What the tree leans on",
        _table(
            ("module", "imported by", "imports", "lines"),
            ((_escape(each.module), each.importers, each.imports, each.lines) for each in chosen.central),
        ),
        "## Modules that nobody imports",
        UNUSED_NOTE,
        _list(f"{_escape(each.module)} ({_escape(each.path)}, {each.line_count} lines)" for each in summary.unused)
        or "None.",
        "## Longest functions",
        _table(
            ("lines", "function", "where", "text"),
            ((each.length_lines, _code(each.name), _where(each), _code(each.text.strip())) for each in summary.longest),
        ),
        "## Largest files",
        _table(
            ("bytes", "lines", "file"),
            ((f"{each.size_bytes:,}", f"{each.line_count or 0:,}", _escape(each.path)) for each in summary.largest),
        ),
        f"## Marks ({summary.mark_count:,})",
        _list(f"{_where(each)}: {_code(each.text.strip())}" for each in chosen.marks) or "None.",
        _more(summary.mark_count, len(chosen.marks)),
        f"## Public names ({summary.public_name_count:,})",
        *_public(chosen),
        _more(len(chosen.modules) + chosen.modules_left_out, len(chosen.modules), "modules"),
        f"## Not read ({summary.problem_count:,})",
        _list(f"{_escape(each.path)}: {each.problem}, {_escape(each.text)}" for each in summary.problems) or "None.",
        _more(summary.problem_count, len(summary.problems)),
        _list(f"{_escape(each.folder)}/: {_escape(each.reason)}" for each in survey.skipped[:50]),
        _more(len(survey.skipped), len(survey.skipped[:50]), "folders"),
        _list(f"{_escape(path)}: its step ended without an output" for path in survey.lost[:50]),
        _more(len(survey.lost), len(survey.lost[:50])),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _figures(summary: Summary) -> str:
    return (
        f"{summary.file_count:,} files, {summary.line_count:,} lines, {summary.size_bytes:,} bytes; "
        f"{summary.module_count:,} Python modules in {summary.package_count:,} packages with "
        f"{summary.function_count:,} functions, {summary.public_name_count:,} public names and "
        f"{summary.edge_count:,} imports between them."
    )


def _public(chosen: Highlights) -> Iterable[str]:
    for each in chosen.modules:
        yield f"### {_escape(each.module)}"
        if each.doc is not None:
            yield f"{_code(each.doc.text.strip())} ({_where(each.doc)})"
        yield _list(f"{name.kind} {_code(name.text.strip())} ({_where(name)})" for name in each.names)
        yield _more(each.name_count, len(each.names), "names")


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join((f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *lines)) if lines else "None."


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _more(whole: int, shown: int, what: str = "") -> str:
    return f"… and {whole - shown:,} more {what}".rstrip() + ", in `report.json`." if whole > shown else ""


def _where(fact: Fact) -> str:
    return f"{_escape(fact.path)}:{fact.line}"


def _escape(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", _visible(text))


def _code(text: str) -> str:
    """As a code span, at most 120 characters, that also stands in a table."""
    short = _visible(text if len(text) <= 120 else text[:119] + "…").replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", short)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest or short != short.strip() else ""
    return f"{fence}{pad}{short}{pad}{fence}" if short.strip() else "(blank)"


def _visible(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text)
