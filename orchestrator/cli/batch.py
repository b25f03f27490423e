"""`submit --file`: a task a line, sent 1,000 at a time; for each line, in order, its id or what is wrong with it."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from contracts.errors import InvalidInput, OrchestratorError, Unavailable
from orchestrator.cli import output
from orchestrator.client import LIST_LIMIT, Client
from shared_state.shapes import Created

Line = tuple[int, dict[str, Any] | InvalidInput]
"""Its number, from 1, and the task on it or why it holds none."""
Answer = tuple[int, Created | OrchestratorError]


def submit_file(file: str, team: str | None, key: str | None, *, as_json: bool) -> int:
    """Submit every line; the exit code is 1 if any was refused. Raises `Unavailable` saying which lines were sent."""
    refused = sent = last = 0
    with ExitStack() as stack:
        lines = _lines(_open(file, stack), team, key)
        client = stack.enter_context(Client())
        bar = stack.enter_context(_Bar(_count(file)))
        while chunk := list(islice(lines, LIST_LIMIT)):
            for answer in _submit(client, chunk, last):
                refused += _print(answer, as_json)
            last, sent = chunk[-1][0], sent + len(chunk)
            bar.show(sent, more=len(chunk) == LIST_LIMIT)
    if refused:
        sys.stderr.write(f"{sent - refused} submitted, {refused} refused\n")
    return 1 if refused else 0


def _open(file: str, stack: ExitStack) -> Iterable[str]:
    if file == "-":
        return sys.stdin
    try:
        return stack.enter_context(Path(file).open(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"--file: cannot read {file}: {error.strerror}", field="--file") from None


def _count(file: str) -> int | None:
    """How many lines there are; null for standard input."""
    if file == "-":
        return None
    with Path(file).open("rb") as content:
        return sum(1 for line in content if line.strip())


def _lines(source: Iterable[str], team: str | None, key: str | None) -> Iterator[Line]:
    """Those that are not blank."""
    try:
        for number, text in enumerate(source, 1):
            if text.strip():
                yield number, _task(text, {"team": team} if team else {}, f"{key}-{number}" if key else None)
    except UnicodeDecodeError:
        raise InvalidInput("--file: it is not UTF-8", field="--file") from None


def _task(text: str, given: dict[str, Any], key: str | None) -> dict[str, Any] | InvalidInput:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return InvalidInput(f"not valid JSON ({str(error)[:100]})")
    if not isinstance(value, dict):
        return InvalidInput('a line must hold a JSON object, like {"team": "survey"}')
    return {**given, **({"idempotency_key": key} if key else {}), **value}


def _submit(client: Client, chunk: list[Line], last: int) -> Iterator[Answer]:
    good = [task for _, task in chunk if not isinstance(task, InvalidInput)]
    try:
        made = iter(client.submit_many(good))
    except Unavailable as error:
        text = f"{error.text} (lines up to {last} were submitted; send the file again with the same --idempotency-key)"
        raise Unavailable(text) from error
    for number, task in chunk:
        yield number, task if isinstance(task, InvalidInput) else next(made)


def _print(answer: Answer, as_json: bool) -> bool:
    """One line of output; whether the task was refused."""
    number, made = answer
    if not isinstance(made, OrchestratorError):
        output.line(json.dumps({"line": number, **made}) if as_json else made["id"])
        return False
    # The service names fields as INDEX.FIELD: whoever wrote the file counts lines instead.
    where = made.field if isinstance(made, InvalidInput) else ""
    field = where.partition(".")[2]
    text = made.text.removeprefix(f"{where}: ")
    if as_json:
        output.line(json.dumps({"line": number, "error": {"code": made.code, "field": field, "text": text}}))
    else:
        shown = f"{field}: {text}" if field and not text.startswith(field) else text
        sys.stderr.write(f"line {number}: {output.clean(shown)}\n")
    return True


class _Bar:
    """A progress bar on standard error: in a terminal only, and only when there is more than one list to send."""

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, sent: int, *, more: bool) -> None:
        if self._progress is None and more and sys.stderr.isatty() and self._total != sent:
            columns = (TextColumn("submitting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task("submitting", total=self._total)
            self._progress.start()
        if self._progress is not None:
            self._progress.update(self._task, completed=sent)
