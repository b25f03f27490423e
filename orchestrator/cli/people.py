"""Commands about what steps ask of people."""

from typing import Annotated

from cyclopts import Parameter

from orchestrator.cli import output
from orchestrator.cli.output import Json
from orchestrator.client import Client


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
