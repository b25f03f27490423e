"""A table that is both: coloured in a terminal, markdown in a document."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table


@dataclass
class Sheet:
    """`columns` by name; the first `names` of them are text, the others figures. `note` says what they mean."""

    title: str
    columns: Sequence[str]
    names: int = 2
    note: str = ""
    rows: list[list[str]] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        self.rows.append(list(cells))

    def rich(self) -> Table:
        table = Table(title=self.title, title_justify="left", caption=self.note or None, caption_justify="left")
        for number, name in enumerate(self.columns):
            is_figure = number >= self.names
            table.add_column(name, justify="right" if is_figure else "left", style=None if is_figure else "cyan")
        for row in self.rows:
            # Ours is what the others are there for.
            table.add_row(*row, style="bold" if "ours" in row[: self.names] else None)
        return table

    def markdown(self) -> str:
        rule = ["---" if number < self.names else "---:" for number in range(len(self.columns))]
        lines = [f"**{self.title}**", "", *(_line(cells) for cells in (self.columns, rule, *self.rows))]
        return "\n".join([*lines, *(["", self.note] if self.note else [])]) + "\n"


def print_sheets(console: Console, sheets: Sequence[Sheet]) -> None:
    """In a pipe there is no width to fit and no colour."""
    for sheet in sheets:
        if sheet.rows:
            console.print(sheet.rich())


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
