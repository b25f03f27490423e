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
    told: dict[str, list[Any]] = {}
    for call in calls:
        output.heading(f"turn {_head(call)}")
        messages = call["request"]["messages"]
        known = _common(told.get(call["agent"], []), messages)
        if not known:
            output.line(f"settings: {json.dumps(call['settings'])}")
            output.line(f"may call: {', '.join(tool['name'] for tool in call['request']['tools'])}")
        for message in messages[known:]:
            _show(message)
        if call["response"] is not None:
            _show(call["response"])
        told[call["agent"]] = [*messages, call["response"]]


def _common(before: Sequence[Any], messages: Sequence[Any]) -> int:
    """How many messages they begin with alike."""
    pairs = enumerate(zip(before, messages, strict=False))
    return next((place for place, (old, new) in pairs if old != new), min(len(before), len(messages)))


def _head(call: ModelCall) -> str:
    return (
        f"{call['epoch']}.{call['ordinal']} of {call['agent']} with {call['model']}: {call['ending']}, "
        f"{call['input_tokens']} tokens read, {call['output_tokens']} written, {call['seconds']:.1f} s"
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
