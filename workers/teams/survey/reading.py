"""Reads one group of files and tells what is in them."""

import functools
import os
import re
import stat
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from contracts.context import Progress
from workers.gates.facts import Fact, Problem
from workers.gates.sources import Source, Unreadable, decode, digest, is_python, read_bytes
from workers.teams.survey.python import NotPython, Outline, outline
from workers.teams.survey.resolve import Resolver
from workers.teams.survey.shapes import Group, Mark, Mention, Read, Reading

MARK = re.compile(r"\b(TODO|FIXME|XXX)\b")
_MARKS: Mapping[str, Literal["TODO", "FIXME", "XXX"]] = {"TODO": "TODO", "FIXME": "FIXME", "XXX": "XXX"}
_WORD = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+|[\w./-]+\.py\b", re.ASCII)
_WORDS_PER_LINE = 100
USES_LIMIT = 2000
"""Imports and mentions of one file: not cut by the step's limit, because what nobody imports depends on them all."""


def read_files(group: Group, progress: Progress) -> Read:
    resolver = _resolver(group)
    files: list[Reading] = []
    problems: list[Problem] = []
    for index, path in enumerate(group.files):
        progress(path, index / len(group.files))
        try:
            data = read_bytes(group.root, path)
            source = decode(path, data)
        except Unreadable as problem:
            problems.append(Problem(path=path, problem=problem.code, text=problem.text))
            continue
        inside = Outline()
        if is_python(path):
            try:
                inside = outline(path, source)
            except NotPython as error:
                problems.append(Problem(path=path, problem="syntax", text=str(error)[:500]))
        files.append(_report(path, source, inside, resolver, group.facts_limit))
    return Read(files=files, problems=problems)


def _report(path: str, source: Source, inside: Outline, resolver: Resolver, limit: int) -> Reading:
    imported = {
        target for each in inside.imports for target in resolver.targets(path, each.module, each.names, each.level)
    }
    facts: dict[str, tuple[Sequence[Any], int]] = {
        "names": (inside.names, limit),
        "marks": (_marks(path, source), limit),
        "imports": (inside.imports, USES_LIMIT),
        "mentions": (_mentions(path, source, resolver, imported), USES_LIMIT),
    }
    return Reading(
        path=path,
        size_bytes=len(source.data),
        sha256=digest(source.data),
        line_count=len(source.lines),
        doc=inside.doc,
        entry=inside.entry or _shebang(path, source),
        functions=inside.functions,
        function_count=inside.function_count,
        omitted={kind: len(each) - most for kind, (each, most) in facts.items() if len(each) > most},
        **{kind: list(each[:most]) for kind, (each, most) in facts.items()},
    )


def _shebang(path: str, source: Source) -> Fact | None:
    if not source.lines or not source.lines[0].startswith("#!"):
        return None
    return Fact(path=path, line=1, text=source.quote(1))


def _marks(path: str, source: Source) -> list[Mark]:
    """Marks that the quote of their line shows: the first of each line."""
    marks = []
    for number in range(1, len(source.lines) + 1):
        match = MARK.search(source.quote(number))
        if match:
            marks.append(Mark(path=path, line=number, text=source.quote(number), mark=_MARKS[match.group()]))
    return marks


def _mentions(path: str, source: Source, resolver: Resolver, imported: set[str]) -> list[Mention]:
    """The first line that names each other module of the tree which this file does not import."""
    first: dict[str, Mention] = {}
    for number in range(1, len(source.lines) + 1):
        text = source.quote(number)
        for word in _WORD.findall(text)[:_WORDS_PER_LINE]:
            target = resolver.named(path, word)
            if target is not None and target != path and target not in imported and target not in first:
                first[target] = Mention(path=path, line=number, text=text, word=word, target=target)
    return list(first.values())


def _resolver(group: Group) -> Resolver:
    """Answers from the file system, each question once: most words of a tree are asked for again and again."""

    @functools.cache
    def mode(path: str) -> int:
        try:
            return os.lstat(os.path.join(group.root, path)).st_mode
        except (OSError, ValueError):
            return 0

    return Resolver(lambda path: stat.S_ISREG(mode(path)), lambda path: stat.S_ISDIR(mode(path)), group.prefix)
