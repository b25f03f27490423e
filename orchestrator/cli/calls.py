"""Calls to models for a person: a line for each, or every word of them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.cli import output
from shared_state.shapes import ModelCall, ModelCallBodies


def list_calls(calls: Sequence[ModelCall]) -> None:
    for call in calls:
        output.line(f"model call {_head(call)}")


def show_calls(calls: Sequence[ModelCallBodies]) -> None:
    """Of each call what its request has that the one before had not, then the answer: the conversation, once."""
    if not calls:
        output.line("no model calls")
    before: list[Any] = []
    for call in calls:
        output.heading(f"turn {_head(call)}")
        messages = call["request"]["messages"]
        fresh = messages[len(before) :] if messages[: len(before)] == before else messages
        if not before or fresh is messages:
            output.line(f"settings: {json.dumps(call['settings'])}")
            output.line(f"may call: {', '.join(tool['name'] for tool in call['request']['tools'])}")
        before = messages
        for message in fresh:
            _show(message)
        if call["response"] is not None:
            _show(call["response"])


def _head(call: ModelCall) -> str:
    return (
        f"{call['epoch']}.{call['ordinal']} {call['model']}: {call['ending']}, {call['input_tokens']} tokens read, "
        f"{call['output_tokens']} written, {call['seconds']:.1f} s"
    )


def _show(message: Mapping[str, Any]) -> None:
    """Each part under the name of who says it."""
    for part in message["parts"]:
        said = part.get("content", part.get("args"))
        text = said if isinstance(said, str) else json.dumps(said, indent=2, ensure_ascii=not output.is_unicode())
        tool = f" {part['tool_name']}" if "tool_name" in part else ""
        output.line(f"[{part['part_kind']}{tool}]")
        for line in text.splitlines():
            output.line(f"  {line}")
