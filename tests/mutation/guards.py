"""Guards in SQL: a line ending in `-- guard: <name>` is a condition (or a row lock) that can be taken away."""

import re
from collections.abc import Iterator
from importlib.resources import files
from typing import NamedTuple

_MARK = re.compile(r"[ \t]*-- guard: (?P<name>.+)$")
_CONDITION = re.compile(r"^(?P<space>[ \t]*)(?P<word>where|and) ")


class Guard(NamedTuple):
    """`statement` is the file's name without `.sql`."""

    statement: str
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.statement}: {self.name}"


def guards() -> list[Guard]:
    found: list[Guard] = []
    folder = files("shared_state").joinpath("sql")
    for file in sorted(folder.iterdir(), key=lambda each: each.name):
        if file.name.endswith(".sql"):
            found.extend(guards_of(file.name.removesuffix(".sql"), file.read_text(encoding="utf-8")))
    return found


def guards_of(statement: str, sql: str) -> Iterator[Guard]:
    for line in sql.splitlines():
        mark = _MARK.search(line)
        if mark:
            yield Guard(statement, mark["name"], line[: mark.start()].strip())


def without(sql: str, name: str) -> str:
    """The statement with one guard less. Raises `KeyError` when it has none of this name."""
    lines = sql.splitlines(keepends=True)
    for start, line in enumerate(lines):
        mark = _MARK.search(line)
        if mark and mark["name"] == name:
            end = _end_of(lines, start)
            return "".join([*lines[:start], _replacement(line), *lines[end:]])
    raise KeyError(name)


def _end_of(lines: list[str], start: int) -> int:
    """One past the last line of the condition that begins at `start`: where its parentheses are closed again."""
    depth = 0
    for index in range(start, len(lines)):
        text = _MARK.sub("", lines[index])
        depth += text.count("(") - text.count(")")
        if depth <= 0:
            return index + 1
    raise ValueError(f"the guard in line {start + 1} does not end")


def _replacement(line: str) -> str:
    condition = _CONDITION.match(line)
    return f"{condition['space']}where true\n" if condition and condition["word"] == "where" else ""
