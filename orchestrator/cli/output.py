"""What commands print: tables with colour in a terminal, plain aligned text in a pipe, JSON when asked for.

Texts come from agents and strangers: control characters never reach the terminal.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

Json = Annotated[bool, Parameter(name="--json", negative="")]
Row = Mapping[str, Any]
Column = tuple[str, str | Callable[[Any], object]]
"""A heading, and a key of the row or a function of it."""

COLOURS: Mapping[str, str] = {
    "succeeded": "green",
    "running": "cyan",
    "planning": "cyan",
    "reviewing": "cyan",
    "ready": "blue",
    "waiting": "yellow",
    "open": "yellow",
    "redriven": "green",
    "discarded": "dim",
    "skipped": "dim",
    "draining": "yellow",
    "cancelling": "yellow",
    "failed": "red",
    "dead": "red",
    "gone": "red",
    "ok": "green",
    "wrong": "red",
}


def line(text: str = "") -> None:
    sys.stdout.write(clean(text, keep="\n\t") + "\n")


def heading(text: str) -> None:
    """A title, bold in a terminal."""
    line()
    if sys.stdout.isatty():
        Console().print(Text(clean(text), style="bold"))
    else:
        line(f"{text}:")


def document(value: Any) -> None:
    """Any value as indented JSON."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=not is_unicode()) + "\n")


def table(rows: Iterable[Row], columns: Sequence[Column], *, as_json: bool, empty: str) -> None:
    """A listing; `empty` is what a person reads instead of an empty table."""
    found = list(rows)
    if as_json:
        document(found)
    elif not found:
        sys.stderr.write(empty + "\n")
    elif sys.stdout.isatty():
        _coloured(found, columns)
    else:
        _aligned(found, columns)


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """Names and values of one thing, those without a value left out."""
    shown = [(name, _text(value)) for name, value in pairs if value not in (None, "", {}, [])]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        line(f"{name.ljust(width)}  {value}")


def clean(text: str, keep: str = "") -> str:
    """Text without anything a terminal would obey."""
    return "".join(char if char.isprintable() or char in keep else "\N{REPLACEMENT CHARACTER}" for char in text)


def short(text: object, length: int = 80) -> str:
    joined = " ".join(str(text).split())
    return joined if len(joined) <= length else joined[: length - 3] + "..."


def moment(value: object) -> str:
    """A time to the second."""
    return str(value)[:19].replace("T", " ") if value else ""


def counts(value: Mapping[str, int]) -> str:
    return " ".join(f"{name}={count}" for name, count in sorted(value.items()))


def _coloured(rows: Sequence[Row], columns: Sequence[Column]) -> None:
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for heading, _ in columns:
        grid.add_column(heading, overflow="fold")
    for row in rows:
        cells = [clean(_cell(row, source)) for _, source in columns]
        grid.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in cells))
    Console().print(grid)


def _aligned(rows: Sequence[Row], columns: Sequence[Column]) -> None:
    lines = [[heading for heading, _ in columns]]
    lines += [[clean(_cell(row, source)) for _, source in columns] for row in rows]
    widths = [max(len(cells[index]) for cells in lines) for index in range(len(columns))]
    for cells in lines:
        line("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


def _cell(row: Row, source: str | Callable[[Any], object]) -> str:
    return _text(row[source] if isinstance(source, str) else source(row))


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=not is_unicode())
    return str(value)


def is_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
