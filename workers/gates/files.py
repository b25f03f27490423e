"""The gate `files`: files are the truth. Every claim in an output about a file is checked against the file itself.

Any object in the output with a `path` is a claim about that file under the root, which the step's input names as
`root` (or `path`): with `line` and `text`, that this line has this text; with `size_bytes`, `line_count` or `sha256`,
that the file has these; with `problem`, that it cannot be read, for this reason; with none of them, that it is there.
If the input lists `files`, each of them must be claimed as read or as a problem: silence is not an answer.
"""

import ast
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from contracts.verdicts import Reason
from workers.gates.facts import TEXT_LIMIT
from workers.gates.sources import Source, Unreadable, decode, digest, is_python, read_bytes
from workers.gates.subject import Subject, pointer

REASONS_LIMIT = 50
_FILE_KEYS = ("size_bytes", "line_count", "sha256")

Where = tuple[str | int, ...]


def check_files(subject: Subject) -> list[Reason]:
    """The claims that are not true, at most `REASONS_LIMIT`. Raises when there is no root to compare with."""
    root = _root(subject.input)
    claims: dict[str, list[tuple[Where, Mapping[str, Any]]]] = {}
    reasons: list[Reason] = []
    for where, claim in _claims(subject.output):
        if isinstance(claim["path"], str):
            claims.setdefault(claim["path"], []).append((where, claim))
        else:
            reasons.append(_reason("files.malformed", where, "path", "a path must be text"))
    # One file at a time: each is read once, and only one is held.
    for path, about in claims.items():
        file = _File(root, path)
        for where, claim in about:
            reasons.extend(_check(file, where, claim))
        if len(reasons) >= REASONS_LIMIT:
            return reasons[:REASONS_LIMIT]
    reasons.extend(_check_coverage(subject.input, claims))
    return reasons[:REASONS_LIMIT]


class _File:
    """What one path holds, read when first asked for."""

    def __init__(self, root: str, path: str) -> None:
        self.path = path
        self.data: bytes | None = None
        self.source: Source | None = None
        self.problem: Unreadable | None = None
        try:
            self.data = read_bytes(root, path)
            self.source = decode(path, self.data)
        except Unreadable as problem:
            self.problem = problem

    def parse_problem(self) -> str | None:
        """The code of what keeps it from being read or parsed, null if nothing does."""
        if self.problem is not None:
            return self.problem.code
        if self.source is None or not is_python(self.path):
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ast.parse(self.source.text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return "syntax"
        return None


def _root(given: Any) -> str:
    root = given.get("root", given.get("path")) if isinstance(given, Mapping) else None
    if not isinstance(root, str):
        raise ValueError("the step's input names no root")
    resolved = os.path.realpath(root, strict=True)
    if not os.path.isdir(resolved):
        raise NotADirectoryError(resolved)
    return resolved


def _claims(output: Any) -> Iterator[tuple[Where, Mapping[str, Any]]]:
    waiting: list[tuple[Where, Any]] = [((), output)]
    while waiting:
        where, value = waiting.pop()
        if isinstance(value, Mapping):
            if "path" in value:
                yield where, value
            waiting.extend(((*where, key), item) for key, item in value.items() if isinstance(item, Mapping | list))
        elif isinstance(value, list):
            waiting.extend(
                ((*where, index), item) for index, item in enumerate(value) if isinstance(item, Mapping | list)
            )


def _check(file: _File, where: Where, claim: Mapping[str, Any]) -> Iterator[Reason]:
    if "problem" in claim:
        yield from _check_problem(file, where, claim)
    if "line" in claim or ("text" in claim and "problem" not in claim):
        yield from _check_line(file, where, claim)
    elif any(claim.get(key) is not None for key in _FILE_KEYS):
        yield from _check_file(file, where, claim)
    elif "problem" not in claim and file.data is None and file.problem is not None:
        yield _reason("files.missing", where, "path", file.problem.text)


def _check_line(file: _File, where: Where, claim: Mapping[str, Any]) -> Iterator[Reason]:
    line, text = claim.get("line"), claim.get("text")
    if not isinstance(line, int) or isinstance(line, bool) or not isinstance(text, str):
        yield _reason("files.malformed", where, "line", "a fact needs path, line (a number from 1) and text")
        return
    if file.source is None:
        why = file.problem.text if file.problem else "it cannot be read"
        yield _reason("files.missing", where, "path", f"a line of a file that cannot be read: {why}")
        return
    try:
        actual = file.source.quote(line)
    except IndexError:
        text = f"the file has no line {line}"
        yield _reason("files.no_line", where, "line", text, f"1 to {len(file.source.lines)}")
        return
    if actual != text:
        yield _reason("files.wrong_text", where, "text", f"line {line} has another text", actual[:TEXT_LIMIT])


def _check_file(file: _File, where: Where, claim: Mapping[str, Any]) -> Iterator[Reason]:
    if file.data is None:
        why = file.problem.text if file.problem else "it cannot be read"
        yield _reason("files.missing", where, "path", f"the size of a file that cannot be read: {why}")
        return
    actual: dict[str, object] = {
        "size_bytes": len(file.data),
        "sha256": digest(file.data),
        "line_count": None if file.source is None else len(file.source.lines),
    }
    for key in _FILE_KEYS:
        if claim.get(key) is not None and claim[key] != actual[key]:
            yield _reason(f"files.wrong_{key}", where, key, f"the file's {key} is another", str(actual[key]))


def _check_problem(file: _File, where: Where, claim: Mapping[str, Any]) -> Iterator[Reason]:
    actual = file.parse_problem()
    if actual != claim["problem"]:
        yield _reason(
            "files.wrong_problem", where, "problem", "this is not what is wrong with the file", actual or "none"
        )


def _check_coverage(given: Any, claims: Mapping[str, Any]) -> Iterator[Reason]:
    files = given.get("files", ()) if isinstance(given, Mapping) else ()
    for path in files if isinstance(files, list) else ():
        if path not in claims:
            yield Reason(
                code="files.uncovered", text="a file of the input is not accounted for", expected=str(path)[:2000]
            )


def _reason(code: str, where: Where, key: str, text: str, expected: str | None = None) -> Reason:
    return Reason(code=code, where=pointer(*where, key), text=text, expected=expected)
