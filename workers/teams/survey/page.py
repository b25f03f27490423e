"""The report as one HTML page that needs nothing else: no script, no font, no request."""

from collections.abc import Iterable
from html import escape
from pathlib import Path

from workers.gates.facts import Fact
from workers.teams.survey.assembly import Assembled
from workers.teams.survey.graph import Graph
from workers.teams.survey.highlights import UNUSED_NOTE, Highlights, PublicModule, choose
from workers.teams.survey.shapes import Summary

_STYLE = Path(__file__).with_name("page.css")
_FOLDERS_LIMIT = 50
Row = tuple[str | int, ...]


def write_page(survey: Assembled, graph: Graph, summary: Summary, picture: str) -> str:
    chosen = choose(survey, graph)
    sections = {
        "Module graph": f"<figure>{picture}</figure>",
        "What the tree leans on": _central(chosen),
        "Modules that nobody imports": _unused(summary),
        "Longest functions": _longest(summary),
        "Largest files": _largest(summary),
        "Marks": _marks(chosen, summary),
        "Public names": _public(chosen),
        "Not read": _problems(survey, summary),
    }
    links = "".join(f'<a href="#{_anchor(title)}">{title}</a>' for title in sections)
    body = "".join(f'<h2 id="{_anchor(title)}">{title}</h2>{content}' for title, content in sections.items())
    warning = f'<p class="warning"><b>Not complete:</b> {_text(survey.degraded)}.</p>' if survey.degraded else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        # Whatever slipped through the escaping could still load or run nothing.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Survey of {_text(survey.root)}</title><style>{_STYLE.read_text()}</style></head><body>"
        f'<h1>{_text(survey.root)}</h1><p class="soft">Every line quoted here was read back from its file and '
        "compared before this report was accepted. All facts are in <code>report.json</code>.</p>"
        f"{_figures(summary)}{warning}<nav>{links}</nav>{body}</body></html>\n"
    )


def _figures(summary: Summary) -> str:
    figures = {
        "files": summary.file_count,
        "lines": summary.line_count,
        "modules": summary.module_count,
        "imports between them": summary.edge_count,
        "public names": summary.public_name_count,
        "functions": summary.function_count,
        "marks": summary.mark_count,
        "not read": summary.problem_count + summary.lost_count,
    }
    return (
        '<dl class="figures">' + "".join(f"<div><dt>{k}</dt><dd>{v:,}</dd></div>" for k, v in figures.items()) + "</dl>"
    )


def _central(chosen: Highlights) -> str:
    rows = ((each.importers, each.imports, each.lines, f"{_text(each.module)}") for each in chosen.central)
    return _table(("imported by", "imports", "lines", "module"), rows)


def _unused(summary: Summary) -> str:
    said = f"<p>{UNUSED_NOTE}</p>"
    rows = ((each.line_count or 0, _text(each.module), _place(each.path)) for each in summary.unused)
    return said + _table(("lines", "module", "file"), rows) + _more(summary.unused_count, len(summary.unused))


def _longest(summary: Summary) -> str:
    rows = ((each.length_lines, f"<b>{_text(each.name)}</b><br>{_quote(each)}") for each in summary.longest)
    return _table(("lines", "function"), rows)


def _largest(summary: Summary) -> str:
    rows = ((each.size_bytes, each.line_count or 0, _text(each.path)) for each in summary.largest)
    return _table(("bytes", "lines", "file"), rows)


def _marks(chosen: Highlights, summary: Summary) -> str:
    return _table(("mark",), ((_quote(mark),) for mark in chosen.marks)) + _more(summary.mark_count, len(chosen.marks))


def _public(chosen: Highlights) -> str:
    return "".join(map(_module, chosen.modules)) + _more(
        len(chosen.modules) + chosen.modules_left_out, len(chosen.modules), "modules"
    )


def _module(module: PublicModule) -> str:
    doc = f"<p>{_quote(module.doc)}</p>" if module.doc is not None else ""
    rows = _table(("kind", "name"), ((name.kind, _quote(name)) for name in module.names))
    return (
        f'<details><summary>{_text(module.module)} <span class="soft">{module.name_count}</span></summary>'
        f"{doc}{rows}{_more(module.name_count, len(module.names), 'names')}</details>"
    )


def _problems(survey: Assembled, summary: Summary) -> str:
    rows: list[Row] = [(each.problem, _text(each.path), _text(each.text)) for each in summary.problems]
    rows += [("lost", _text(path), "its step ended without an output") for path in survey.lost[:_FOLDERS_LIMIT]]
    folders: list[Row] = [
        ("skipped", _text(each.folder) + "/", _text(each.reason)) for each in survey.skipped[:_FOLDERS_LIMIT]
    ]
    whole = summary.problem_count + summary.lost_count + len(survey.skipped)
    return _table(("what", "path", "why"), rows + folders) + _more(whole, len(rows) + len(folders))


def _table(head: tuple[str, ...], rows: Iterable[Row]) -> str:
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    if not body:
        return '<p class="soft">None.</p>'
    titles = "".join(f"<th>{title}</th>" for title in head)
    return f'<div class="table"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: str | int) -> str:
    return f'<td class="number">{value:,}</td>' if isinstance(value, int) else f"<td>{value}</td>"


def _quote(fact: Fact) -> str:
    shown = fact.text.strip()
    short = shown if len(shown) <= 160 else shown[:159] + "…"
    return f"<code>{_text(short)}</code><br>{_place(f'{fact.path}:{fact.line}')}"


def _place(where: str) -> str:
    return f'<span class="where">{_text(where)}</span>'


def _more(whole: int, shown: int, what: str = "") -> str:
    left = f"{whole - shown:,} more {what}".rstrip()
    return f'<p class="soft">… and {left}, in <code>report.json</code>.</p>' if whole > shown else ""


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _text(text: str) -> str:
    """Escaped; control and bidirectional characters, which could disguise what is quoted, made visible."""
    return escape("".join(each if each.isprintable() else "\ufffd" for each in text))
