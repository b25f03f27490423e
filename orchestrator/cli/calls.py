"""What a step's agent said to its model and what it heard, turn by turn, for a person."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from contracts.errors import NotFound
from orchestrator.cli import output
from orchestrator.client import Client
from shared_state.shapes import ModelCall, ModelCallBodies

Message = Mapping[str, Any]
_TITLES = {
    "system-prompt": "system",
    "user-prompt": "user",
    "tool-return": "tool answer",
    "retry-prompt": "told",
    "text": "text",
    "thinking": "thinking",
    "tool-call": "calls",
}


def find_calls(client: Client, step: str, turn: str | None) -> list[ModelCallBodies]:
    """All calls of a step, oldest first, with what was said; of one `turn` (EPOCH.ORDINAL) only. Raises `NotFound`."""
    calls = client.step(step)["model_calls"]
    wanted = [call for call in calls if turn is None or name_of(call) == turn]
    if turn is not None and not wanted:
        names = ", ".join(name_of(call) for call in calls) or "none"
        raise NotFound(f"the step has no call {turn}; there are {names}")
    return [client.model_call(step, call["epoch"], call["ordinal"]) for call in wanted]


def show_calls(calls: Sequence[ModelCallBodies]) -> None:
    """Each with what was new in its request; what the one before had shown already is counted, not repeated."""
    shown: list[Message] = []
    for call in calls:
        _show_head(call)
        messages: list[Message] = call["request"]["messages"]
        known = len(shown) if messages[: len(shown)] == shown else 0
        if known:
            output.line(f"  ... {known} messages as before (--call {name_of(call)} shows all)")
        for message in messages[known:]:
            _show(message, "->")
        if call["response"] is not None:
            _show(call["response"], "<-")
        shown = messages
    if not calls:
        output.line("the step has called no model")


def name_of(call: ModelCall) -> str:
    return f"{call['epoch']}.{call['ordinal']}"


def _show_head(call: ModelCallBodies) -> None:
    used = f"{call['input_tokens']} tokens read, {call['output_tokens']} written, {call['seconds']:.1f} s"
    output.line(f"call {name_of(call)} {call['agent']} {call['model']}: {call['ending']}, {used}")
    told = ", ".join(f"{key}={value}" for key, value in call["settings"].items())
    tools = ", ".join(tool["name"] for tool in call["request"]["tools"])
    output.line(f"  may call: {tools}" + (f"; settings: {told}" if told else ""))


def _show(message: Message, arrow: str) -> None:
    for part in message["parts"]:
        kind = part["part_kind"]
        name = f" {part['tool_name']}" if part.get("tool_name") else ""
        output.line(f"  {arrow} {_TITLES.get(kind, kind)}{name}")
        for text in _lines(part):
            output.line(f"     {text}")


def _lines(part: Message) -> Iterator[str]:
    value = part.get("args") if part["part_kind"] == "tool-call" else part.get("content")
    yield from (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)).splitlines()
