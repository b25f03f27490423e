"""Commands about dead letters: find them, read them, mend them, put them back or close them."""

import json as json_text
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from contracts.errors import CODES, Conflict, InvalidInput
from orchestrator.cli import arguments, editor, letter, output
from orchestrator.cli.output import Json
from orchestrator.client import Client
from shared_state.shapes import Redriven

Flag = Annotated[bool, Parameter(negative="")]
Every = Annotated[bool, Parameter(name="--all", negative="")]


@Parameter(name="*")
@dataclass(frozen=True)
class Filter:
    """All that are given must fit.

    Args:
        reason: A code (gate.rejected), or the part before the dot (gate); `dead-letters codes` lists them.
        team: Only of this team.
        agent: Only of this agent.
        queue: Only of this queue.
        task: Only of this task.
        since: Only since then: a time (2026-11-21T14:00) or an age (15m, 2h, 3d).
        until: Only before then.
        text: Only those whose text holds this.
    """

    reason: Annotated[str | None, Parameter(name=["--reason", "--reason-code"])] = None
    team: str | None = None
    agent: str | None = None
    queue: str | None = None
    task: str | None = None
    since: str | None = None
    until: str | None = None
    text: str | None = None

    def query(self) -> dict[str, Any]:
        """What was given, as the client takes it."""
        moments = {
            "since": arguments.read_moment(self.since, "--since"),
            "until": arguments.read_moment(self.until, "--until"),
        }
        return {name: value for name, value in {**vars(self), **moments}.items() if value is not None}


_ANY = Filter()


def list_dead_letters(
    *, filter: Filter = _ANY, state: str = "open", every: Every = False, limit: int = 100, json: Json = False
) -> None:
    """List what was given up on, newest first.

    Args:
        state: open (the default), redriven or discarded.
        every: In every state.
        limit: How many at most.
    """
    with Client() as client:
        output.table(
            client.dead_letters(state=None if every else state, limit=limit, **filter.query()),
            [
                ("DEAD LETTER", "id"),
                ("STATE", "state"),
                ("REASON", "reason"),
                ("TEAM", lambda found: found["team"] or ""),
                ("AGENT", lambda found: found["agent"] or ""),
                ("STEP", lambda found: found["step_key"] or f"(queue {found['queue']})"),
                ("CREATED", lambda found: output.moment(found["created_at"])),
                ("TEXT", lambda found: output.short(found["text"], 60)),
            ],
            as_json=json,
            empty="no dead letters",
        )


def counts(*, filter: Filter = _ANY, state: str = "open", every: Every = False, json: Json = False) -> None:
    """Count dead letters by reason, with what to do about each.

    Args:
        state: open (the default), redriven or discarded.
        every: In every state.
    """
    with Client() as client:
        output.table(
            client.dead_letter_counts(state=None if every else state, **filter.query()),
            [
                ("COUNT", "count"),
                ("REASON", "reason"),
                ("FIRST", lambda found: output.moment(found["first_at"])),
                ("LAST", lambda found: output.moment(found["last_at"])),
                ("MEANING", "meaning"),
                ("WHAT TO DO", "remedy"),
            ],
            as_json=json,
            empty="no dead letters",
        )


def codes(*, json: Json = False) -> None:
    """List every reason code: what it means, what to do. Agents may add their own under `agent.`."""
    rows = [
        {"code": name, "retryable": code.retryable, "meaning": code.meaning, "remedy": code.remedy}
        for name, code in sorted(CODES.items())
    ]
    columns: list[output.Column] = [
        ("CODE", "code"), ("TRIED AGAIN", "retryable"), ("MEANING", "meaning"), ("WHAT TO DO", "remedy"),
    ]  # fmt: skip
    output.table(rows, columns, as_json=json, empty="")


def show(dead_letter: str, *, json: Json = False) -> None:
    """Show one dead letter: why, the message, its step's attempts and input, what it holds up, notes and edits."""
    with Client() as client:
        found = client.dead_letter(dead_letter)
    output.document(found) if json else letter.show(found)


def edit(dead_letter: str, *, input: str | None = None, json: Json = False) -> None:
    """Give a dead step another input; `redrive` puts it back then. What it was stays visible.

    Args:
        input: @file.json, or the JSON itself; without it your $EDITOR opens on the input as it is.
    """
    with Client() as client:
        if input is not None:
            changed = arguments.read_object(input, "--input")
        else:
            found = client.dead_letter(dead_letter)
            if found["step_id"] is None:
                raise Conflict("these bytes never were a message: write it anew with redrive --message")
            changed = editor.edit_object(found["step_input"])
        done = client.edit_dead_letter(dead_letter, changed)
    output.document(done) if json else output.line(
        f"{done['id']} edited; `orchestrator dead-letters redrive` puts it back"
    )


def redrive(
    *dead_letters: str,
    edit: str | None = None,
    message: str | None = None,
    every: Every = False,
    filter: Filter = _ANY,
    per_second: float | None = None,
    dry_run: Flag = False,
    json: Json = False,
) -> int:
    """Put dead steps back to work; a second time changes nothing.

    Args:
        dead_letters: Ids of dead letters.
        edit: @file.json with another input, for exactly one.
        message: @file.json with what undecodable bytes should have been: {"steps": [{"id": ...}]}, for exactly one.
        every: All open ones that fit the filters, instead of ids.
        per_second: Let at most so many of them begin each second; the command itself does not wait.
        dry_run: Only say what would happen.
    """
    wanted = filter.query()
    if every and not wanted:
        raise InvalidInput(
            "--all needs a filter, like --reason gate.rejected: name what is to be redriven", field="--all"
        )
    if every == bool(dead_letters):
        raise InvalidInput("name dead letters by id, or use --all with a filter", field="ID")
    if wanted and not every:
        raise InvalidInput("filters go with --all, not with ids", field="--all")
    mended = edit is not None or message is not None
    if mended and (len(dead_letters) != 1 or per_second is not None):
        raise InvalidInput("--edit and --message go with exactly one dead letter", field="--edit")
    with Client() as client:
        if len(dead_letters) == 1 and per_second is None:
            done = client.redrive(
                dead_letters[0],
                edit=arguments.read_object(edit, "--edit") if edit else None,
                message=arguments.read_object(message, "--message") if message else None,
                dry_run=dry_run,
            )
        else:
            ids = None if every else dead_letters
            done = client.redrive_many(ids=ids, per_second=per_second, dry_run=dry_run, **wanted)
    output.document(done) if json else _say(done)
    return 1 if done["refused"] else 0


def discard(*dead_letters: str, reason: str, json: Json = False) -> None:
    """Close dead letters for good; their steps are failed.

    Args:
        dead_letters: Ids of dead letters.
        reason: Why; it is kept.
    """
    if not dead_letters:
        raise InvalidInput("name the dead letters by id", field="ID")
    with Client() as client:
        for dead_letter in dead_letters:
            found = client.discard(dead_letter, reason)
            output.document(found) if json else output.line(f"{found['id']} {found['state']}")


def note(dead_letter: str, text: str, *, json: Json = False) -> None:
    """Add a note to a dead letter; it is kept with your key's name and the time."""
    with Client() as client:
        found = client.note(dead_letter, text)
    output.document(found) if json else output.line(f"{found['id']} {len(found['notes'])} notes")


def export(
    *,
    filter: Filter = _ANY,
    state: str = "open",
    every: Every = False,
    output_file: Annotated[Path | None, Parameter(name="--output")] = None,
) -> None:
    """Write all that fit, newest first, with everything about them, a line of JSON each.

    Args:
        state: open (the default), redriven or discarded.
        every: In every state.
        output_file: The file to write; standard output without it.
    """
    written = 0
    with Client() as client, ExitStack() as stack:
        target = sys.stdout if output_file is None else stack.enter_context(_open(output_file))
        for found in client.export_dead_letters(state=None if every else state, **filter.query()):
            target.write(json_text.dumps(found) + "\n")
            written += 1
    sys.stderr.write(f"{written} dead letters\n")


def _open(path: Path) -> Any:
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"--output: cannot write {path}: {error.strerror}", field="--output") from None


def _say(done: Redriven) -> None:
    would = "would be " if done["dry_run"] else ""
    for each in done["redriven"]:
        output.line(f"{each} {would}redriven")
    for each in done["unchanged"]:
        output.line(f"{each} unchanged")
    for refused in done["refused"]:
        output.line(f"{refused['id']} refused: {refused['text']}")
    if len(done["redriven"]) + len(done["unchanged"]) + len(done["refused"]) != 1:
        pace = f", the last of them in {done['seconds']:.0f} seconds" if done["seconds"] else ""
        counts = f"{len(done['unchanged'])} unchanged, {len(done['refused'])} refused"
        sys.stderr.write(f"{len(done['redriven'])} {would}redriven{pace}; {counts}\n")
