"""Commands about what waits for people: dead letters and questions."""

from typing import Annotated

from cyclopts import Parameter

from contracts.errors import InvalidInput
from orchestrator.cli import arguments, output
from orchestrator.cli.output import Json
from orchestrator.client import Client


def list_dead_letters(
    *,
    state: str | None = "open",
    reason: str | None = None,
    team: str | None = None,
    task: str | None = None,
    every: Annotated[bool, Parameter(name="--all", negative="")] = False,
    limit: int = 100,
    json: Json = False,
) -> None:
    """List what was given up on, newest first.

    Args:
        state: open (the default), redriven or discarded.
        reason: A code (gate.rejected), or the part before the dot (gate).
        team: Only of this team.
        task: Only of this task.
        every: In every state.
        limit: How many at most.
    """
    with Client() as client:
        output.table(
            client.dead_letters(state=None if every else state, reason=reason, team=team, task=task, limit=limit),
            [
                ("DEAD LETTER", "id"),
                ("STATE", "state"),
                ("REASON", "reason"),
                ("TEAM", lambda letter: letter["team"] or ""),
                ("STEP", lambda letter: letter["step_key"] or f"(queue {letter['queue']})"),
                ("CREATED", lambda letter: output.moment(letter["created_at"])),
                ("TEXT", lambda letter: output.short(letter["text"], 60)),
            ],
            as_json=json,
            empty="no dead letters",
        )


def show_dead_letter(letter: str, *, json: Json = False) -> None:
    """Show one dead letter."""
    with Client() as client:
        found = client.dead_letter(letter)
    if json:
        output.document(found)
    else:
        output.facts(found.items())


def redrive(
    *letters: str,
    edit: str | None = None,
    every: Annotated[bool, Parameter(name="--all", negative="")] = False,
    reason_code: str | None = None,
    team: str | None = None,
    json: Json = False,
) -> int:
    """Put dead steps back to work; a second time changes nothing.

    Args:
        letters: Ids of dead letters.
        edit: @file.json with another input, for exactly one.
        every: All that fit --reason-code and --team.
        reason_code: With --all, only those with this reason.
        team: With --all, only those of this team.
    """
    with Client() as client:
        if every:
            if letters or edit:
                raise InvalidInput("--all goes with --reason-code or --team, not with ids or --edit", field="--all")
            if not reason_code and not team:
                raise InvalidInput("--all needs --reason-code or --team: name what is to be redriven", field="--all")
            done = client.redrive_many(reason=reason_code, team=team)
        elif not letters:
            raise InvalidInput("name the dead letters by id, or use --all --reason-code CODE", field="ID")
        elif len(letters) == 1:
            done = client.redrive(letters[0], edit=arguments.read_object(edit, "--edit") if edit else None)
        elif edit:
            raise InvalidInput("--edit goes with exactly one dead letter", field="--edit")
        else:
            done = client.redrive_many(ids=letters)
    if json:
        output.document(done)
    else:
        for letter in done["redriven"]:
            output.line(f"{letter} redriven")
        for letter in done["unchanged"]:
            output.line(f"{letter} unchanged")
    return 0


def discard(letter: str, *, reason: str, json: Json = False) -> None:
    """Close a dead letter for good; its step is failed.

    Args:
        reason: Why; it is kept.
    """
    with Client() as client:
        found = client.discard(letter, reason)
        output.document(found) if json else output.line(f"{found['id']} {found['state']}")


def list_questions(
    *, state: str | None = "open", task: str | None = None,
    every: Annotated[bool, Parameter(name="--all", negative="")] = False, limit: int = 100, json: Json = False,
) -> None:  # fmt: skip
    """List what steps ask of people, newest first."""
    with Client() as client:
        output.table(
            client.questions(state=None if every else state, task=task, limit=limit),
            [
                ("QUESTION", "id"),
                ("STATE", "state"),
                ("TASK", "task_id"),
                ("STEP", "step_key"),
                ("ASKED", lambda question: output.moment(question["asked_at"])),
                ("TEXT", lambda question: output.short(question["text"], 100)),
            ],
            as_json=json,
            empty="no questions",
        )


def answer(question: str, text: str, *, json: Json = False) -> None:
    """Answer a question; its step goes on."""
    with Client() as client:
        found = client.answer(question, text)
        output.document(found) if json else output.line(f"{found['id']} {found['state']}")
