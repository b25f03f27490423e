"""A request to a model, read from each of the three dialects into one shape."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DIALECTS = {"/chat/completions": "chat", "/responses": "responses", "/messages": "messages"}


@dataclass(frozen=True)
class Turn:
    """`role` is system, user, assistant, call (a tool is called) or result (what it answered)."""

    role: str
    text: str
    tool: str | None = None


@dataclass(frozen=True)
class Ask:
    """`number` counts the provider's requests from 0; `at` is its monotonic clock; `headers` are in lower case."""

    number: int
    at: float
    path: str
    dialect: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    turns: Sequence[Turn] = field(default=())

    @property
    def model(self) -> str:
        return str(self.body.get("model"))

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def system(self) -> str:
        return self.said("system")

    @property
    def tools(self) -> tuple[str, ...]:
        return tuple(tool.get("name") or tool["function"]["name"] for tool in self.body.get("tools") or ())

    @property
    def results(self) -> list[Turn]:
        """What tools answered, oldest first."""
        return [turn for turn in self.turns if turn.role == "result"]

    def said(self, role: str) -> str:
        return "\n".join(turn.text for turn in self.turns if turn.role == role)

    def tool_schema(self, name: str) -> Any:
        """The JSON Schema of a tool's arguments."""
        for tool in self.body.get("tools") or ():
            tool = tool.get("function", tool)
            if tool["name"] == name:
                return tool.get("parameters") or tool.get("input_schema")
        raise KeyError(name)

    def has(self, *texts: str) -> bool:
        """Whether every one of them stands anywhere in the conversation."""
        whole = "\n".join(turn.text for turn in self.turns)
        return all(text in whole for text in texts)


def read(number: int, at: float, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Ask | None:
    """None for a path that no model answers on."""
    dialect = next((dialect for end, dialect in DIALECTS.items() if path.partition("?")[0].endswith(end)), None)
    if dialect is None:
        return None
    turns = tuple({"chat": _chat, "responses": _responses, "messages": _messages}[dialect](body))
    return Ask(number, at, path, dialect, headers, body, turns)


def _chat(body: Mapping[str, Any]) -> Iterator[Turn]:
    names: dict[str, str] = {}
    for message in body["messages"]:
        role = "system" if message["role"] == "developer" else message["role"]
        text = _text(message.get("content"))
        if role == "tool":
            yield Turn("result", text, names.get(message["tool_call_id"]))
            continue
        if text:
            yield Turn(role, text)
        for call in message.get("tool_calls") or ():
            names[call["id"]] = call["function"]["name"]
            yield Turn("call", call["function"]["arguments"], call["function"]["name"])


def _responses(body: Mapping[str, Any]) -> Iterator[Turn]:
    names: dict[str, str] = {}
    if body.get("instructions"):
        yield Turn("system", body["instructions"])
    given = body["input"]
    for item in [{"role": "user", "content": given}] if isinstance(given, str) else given:
        match item.get("type", "message"):
            case "function_call":
                names[item["call_id"]] = item["name"]
                yield Turn("call", item["arguments"], item["name"])
            case "function_call_output":
                yield Turn("result", _text(item["output"]), names.get(item["call_id"]))
            case "message":
                yield Turn("system" if item["role"] == "developer" else item["role"], _text(item["content"]))


def _messages(body: Mapping[str, Any]) -> Iterator[Turn]:
    names: dict[str, str] = {}
    if body.get("system"):
        yield Turn("system", _text(body["system"]))
    for message in body["messages"]:
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            match part["type"]:
                case "text":
                    yield Turn(message["role"], part["text"])
                case "tool_use":
                    names[part["id"]] = part["name"]
                    yield Turn("call", json.dumps(part["input"]), part["name"])
                case "tool_result":
                    yield Turn("result", _text(part.get("content")), names.get(part["tool_use_id"]))


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content)
