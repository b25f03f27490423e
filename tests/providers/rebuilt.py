"""A recorded request as our model layer would be asked it: its messages and tools, read from the three dialects."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    ModelResponsePart,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.tools import ToolDefinition

from tests.providers.recordings import Exchange, Json

Part = ModelRequestPart | ModelResponsePart


def messages(exchange: Exchange) -> list[ModelMessage]:
    """The conversation. What is no text and no call (files, pictures, reasoning) is named, not carried along."""
    made: list[ModelMessage] = []
    names: dict[str, str] = {}
    for part in _parts(exchange):
        if isinstance(part, ToolCallPart):
            names[part.tool_call_id] = part.tool_name
        if isinstance(part, ToolReturnPart):
            part.tool_name = names.get(part.tool_call_id, "unknown")
        if isinstance(part, TextPart | ToolCallPart):
            if not (made and isinstance(made[-1], ModelResponse)):
                made.append(ModelResponse(parts=[]))
            made[-1].parts = [*made[-1].parts, part]
        else:
            if not (made and isinstance(made[-1], ModelRequest)):
                made.append(ModelRequest(parts=[]))
            made[-1].parts = [*made[-1].parts, part]
    if not made or isinstance(made[-1], ModelResponse):
        made.append(ModelRequest(parts=[UserPromptPart("Go on.")]))
    return made


def parameters(exchange: Exchange) -> ModelRequestParameters:
    tools = [tool.get("function", tool) for tool in exchange.request.get("tools") or ()]
    return ModelRequestParameters(
        function_tools=[
            ToolDefinition(
                name=tool["name"],
                description=tool.get("description"),
                parameters_json_schema=tool.get("parameters") or tool.get("input_schema") or {"type": "object"},
            )
            for tool in tools
            if tool.get("name") in exchange.offered
        ]
    )


def _parts(exchange: Exchange) -> Iterator[Part]:
    for key in ("system", "instructions"):
        if given := exchange.request.get(key):
            yield SystemPromptPart(_text(given))
    for item in exchange.items:
        yield from _item(item)


def _item(item: Json) -> Iterator[Part]:
    kind, role, content = item.get("type"), item.get("role"), item.get("content")
    if kind == "function_call":
        yield ToolCallPart(item["name"], item["arguments"], item["call_id"])
    elif kind == "function_call_output":
        yield ToolReturnPart("", _text(item["output"]), item["call_id"])
    elif role == "tool":
        yield ToolReturnPart("", _text(content), item["tool_call_id"])
    elif role in ("system", "developer"):
        yield SystemPromptPart(_text(content))
    elif role == "assistant":
        yield from _said(item, content)
    elif role == "user":
        blocks = content if isinstance(content, list) else []
        yield from (
            ToolReturnPart("", _text(block.get("content")), block["tool_use_id"])
            for block in blocks
            if block["type"] == "tool_result"
        )
        if not blocks or any(block["type"] != "tool_result" for block in blocks):
            yield UserPromptPart(_text(content))


def _said(item: Json, content: Any) -> Iterator[Part]:
    if text := _text(content, other=False):
        yield TextPart(text)
    for block in content if isinstance(content, list) else ():
        if block["type"] == "tool_use":
            yield ToolCallPart(block["name"], block["input"], block["id"])
    for call in item.get("tool_calls") or ():
        yield ToolCallPart(call["function"]["name"], call["function"].get("arguments"), call["id"])


def _text(content: Any, *, other: bool = True) -> str:
    """`other`: whether parts that are no text are named."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, Sequence):
        return json.dumps(content)
    said = [
        part["text"] if "text" in part else f"[{part['type']}]" * other
        for part in content
        if part["type"] != "tool_result"
    ]
    return "\n".join(filter(None, said))
