"""One dead letter as a page for a person: what happened, what was tried, what it holds up, what others did and said."""

import base64
import json
from typing import Any

from orchestrator.cli import output
from orchestrator.cli.attempts import show_attempts
from shared_state.shapes import DeadLetterDetail

_BYTES_SHOWN = 1000
_BLOCKED_SHOWN = 20


def show(letter: DeadLetterDetail) -> None:
    output.facts(
        [
            ("dead letter", letter["id"]),
            ("state", letter["state"]),
            ("reason", letter["reason"]),
            ("meaning", letter["meaning"]),
            ("what to do", letter["remedy"]),
            ("text", letter["text"]),
            ("given up on", output.moment(letter["created_at"])),
            ("closed", f"{output.moment(letter['closed_at'])} by {letter['closed_by']}" if letter["closed_at"] else ""),
            ("because", letter["close_reason"]),
            ("queue", letter["queue"]),
            *_place(letter),
        ]
    )
    if letter["task"] is not None:
        _show_step(letter)
    _part("message", letter["message"])
    _show_bytes(letter)
    _show_people(letter)


def _place(letter: DeadLetterDetail) -> list[tuple[str, object]]:
    """Task and step; nothing for bytes, which have neither."""
    task = letter["task"]
    if task is None:
        return []
    goal = f": {output.short(task['goal'])}" if task["goal"] else ""
    return [
        ("task", f"{task['id']} {task['state']} (team {task['team']}){goal}"),
        ("step", f"{letter['step_id']} {letter['step_key']} {letter['step_state']} (agent {letter['agent']})"),
    ]


def _show_step(letter: DeadLetterDetail) -> None:
    _part("input", letter["step_input"])
    _part("feedback", letter["feedback"])
    if letter["attempts"]:
        output.heading("attempts")
        show_attempts(letter["attempts"])
    for proposal in letter["proposals"]:
        _part(f"output proposed in epoch {proposal['epoch']}, {proposal['state']}", proposal["body"])
    if letter["blocks"]:
        output.heading("holds up")
        for blocked in letter["blocks"][:_BLOCKED_SHOWN]:
            output.line(f"{blocked['step_key']} {blocked['state']} (agent {blocked['agent']})")
        if len(letter["blocks"]) > _BLOCKED_SHOWN:
            output.line(f"and {len(letter['blocks']) - _BLOCKED_SHOWN} more; --json lists them")


def _show_bytes(letter: DeadLetterDetail) -> None:
    if letter["raw_base64"] is None:
        return
    _part("headers", letter["headers"])
    raw = base64.b64decode(letter["raw_base64"])
    more = ", the beginning" if len(raw) > _BYTES_SHOWN else ""
    output.heading(f"bytes ({letter['raw_size_bytes']}, sha256 {letter['raw_sha256']}{more})")
    output.line(repr(raw[:_BYTES_SHOWN])[2:-1])


def _show_people(letter: DeadLetterDetail) -> None:
    for edit in letter["edits"]:
        _part(f"edited by {edit['editor']} at {output.moment(edit['edited_at'])}, before", edit["before"])
        if letter["task"] is None:
            _part("after", edit["after"])
    if letter["notes"]:
        output.heading("notes")
        for note in letter["notes"]:
            output.line(f"{output.moment(note['written_at'])} {note['author']}: {note['text']}")
    webhook = letter["webhook"]
    if webhook["error"]:
        output.facts([("webhook", f"not told after {webhook['count']} tries: {webhook['error']}")])
    elif webhook["sent_at"]:
        output.facts([("webhook", f"told at {output.moment(webhook['sent_at'])}")])


def _part(title: str, value: Any) -> None:
    """A value as indented JSON under its title; nothing where there is none."""
    if value is None:
        return
    output.heading(title)
    output.line(json.dumps(value, indent=2, ensure_ascii=not output.is_unicode()))
