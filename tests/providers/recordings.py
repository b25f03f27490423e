"""Recorded exchanges with model providers, and what each of them is: read from the raw JSON, by nothing of ours."""

import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

Json = dict[str, Any]
ENDS = {"/chat/completions": "chat", "/responses": "responses", "/v1/messages": "messages"}
FILES = ("pai.jsonl.gz", "otel.jsonl.gz")


@dataclass(frozen=True)
class Exchange:
    """One request and its answer. `number` is its place in the cassette as recorded; places may be missing."""

    cassette: str
    number: int
    host: str
    path: str
    request: Json
    status: int
    headers: Mapping[str, str]
    response: Any

    @property
    def dialect(self) -> str | None:
        """chat, responses or messages; null for the paths of other services."""
        return next((dialect for end, dialect in ENDS.items() if self.path.endswith(end)), None)

    @property
    def stream(self) -> bool:
        return bool(self.request.get("stream"))

    @property
    def body(self) -> bytes:
        return (self.response if isinstance(self.response, str) else json.dumps(self.response)).encode()

    @property
    def items(self) -> list[Any]:
        """The conversation so far, as the request holds it."""
        given = self.request.get("input" if self.dialect == "responses" else "messages") or []
        return [{"role": "user", "content": given}] if isinstance(given, str) else list(given)

    @property
    def offered(self) -> list[str]:
        """The names of the functions that the model may call."""
        tools = [tool for tool in self.request.get("tools") or () if tool.get("type") in (None, "function", "custom")]
        return [tool["name"] if "name" in tool else tool["function"]["name"] for tool in tools]

    @property
    def hosted(self) -> list[str]:
        """What the request asks the provider itself to run: nothing of it passes our gates."""
        kinds = [tool.get("type") for tool in self.request.get("tools") or ()]
        kinds += [item.get("type") for item in self.items if item.get("type") == "additional_tools"]
        found = {kind for kind in kinds if kind not in (None, "function", "custom")}
        found |= {key for key in ("mcp_servers", "web_search_options", "search_settings") if self.request.get(key)}
        return sorted(found)


@dataclass(frozen=True)
class Truth:
    """What an exchange is: how the call must end, its tokens where they are recorded, the text of an answer."""

    ending: str
    input_tokens: int | None
    output_tokens: int | None
    text: str = ""


def load(folder: Path) -> dict[str, list[Exchange]]:
    """The exchanges of each cassette, in their order."""
    cassettes: dict[str, list[Exchange]] = {}
    for name in FILES:
        with gzip.open(folder / "llm-replay" / name, "rt", encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                exchange = Exchange(
                    row["cassette"], row["i"], row["host"], row["path"], row["request"], row["status"], row["headers"],
                    row["response"],
                )  # fmt: skip
                cassettes.setdefault(exchange.cassette, []).append(exchange)
    return cassettes


def truth(exchange: Exchange) -> Truth:
    """Of an exchange in one of the three dialects."""
    if exchange.status >= 400:
        return Truth(_refused(exchange.status, exchange.response["error"]), None, None)
    said = exchange.response
    if isinstance(said, str):
        events = list(_events(said))
        if not events:
            return Truth("not_json", None, None)
        said = {"chat": _chat_of, "responses": _response_of, "messages": _message_of}[str(exchange.dialect)](events)
    if said.get("error"):
        return Truth(_refused(said["error"].get("status_code"), said["error"]), None, None)
    return {"chat": _chat, "responses": _responses, "messages": _messages}[str(exchange.dialect)](exchange, said)


def grows(exchanges: Sequence[Exchange]) -> bool:
    """Whether these are one conversation: each request is the one before it and more, with the same model and tools."""
    first = exchanges[0]
    return len(exchanges) > 1 and all(
        (later.path, later.request.get("model"), later.offered)
        == (first.path, first.request.get("model"), first.offered)
        and len(later.items) > len(earlier.items)
        and later.items[: len(earlier.items)] == earlier.items
        for earlier, later in pairwise(exchanges)
    )


def _refused(status: int | None, error: Json) -> str:
    code, kind = error.get("code"), error.get("type")
    if code == "tool_use_failed":
        return "tool_rejected"
    if code == "model_not_found" or kind == "not_found_error":
        return "not_found"
    if status == 429 or code == 429:
        return "rate_limited"
    assert status == 400 or code == 400, error
    return "bad_request"


def _chat(exchange: Exchange, said: Json) -> Truth:
    usage = said.get("usage") or {}
    tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not said.get("choices"):
        return Truth("malformed", *tokens)
    choice = said["choices"][0]
    message, finish = choice["message"], choice["finish_reason"]
    if message.get("refusal"):
        return Truth("refused", *tokens)
    if finish in ("length", "content_filter"):
        return Truth({"length": "cut_off"}.get(finish, "filtered"), *tokens)
    calls = [(call["function"]["name"], call["function"].get("arguments")) for call in message.get("tool_calls") or ()]
    text = _answer(message.get("content"))
    return Truth(_content(exchange, calls, text), *tokens, text)


def _responses(exchange: Exchange, said: Json) -> Truth:
    usage = said.get("usage") or {}
    tokens = usage.get("input_tokens"), usage.get("output_tokens")
    if said.get("status") in ("queued", "in_progress"):
        return Truth("unfinished", *tokens)
    reason = (said.get("incomplete_details") or {}).get("reason")
    if reason:
        return Truth({"max_output_tokens": "cut_off"}.get(reason, "filtered"), *tokens)
    if said.get("error") or said.get("status") == "failed":
        return Truth("error_in_answer", *tokens)
    parts = [part for item in said["output"] if item["type"] == "message" for part in item["content"]]
    if any(part["type"] == "refusal" for part in parts):
        return Truth("refused", *tokens)
    if any(item["type"].endswith("_call") and item["type"] != "function_call" for item in said["output"]):
        return Truth("hosted_tool", *tokens)
    calls = [(item["name"], item["arguments"]) for item in said["output"] if item["type"] == "function_call"]
    text = "".join(part.get("text") or "" for part in parts)
    return Truth(_content(exchange, calls, text), *tokens, text)


def _messages(exchange: Exchange, said: Json) -> Truth:
    usage = said.get("usage") or {}
    # What was read from or written to the provider's cache is input as well: it was sent and is charged.
    cached = [usage.get(key) or 0 for key in ("cache_creation_input_tokens", "cache_read_input_tokens")]
    tokens = usage["input_tokens"] + sum(cached) if "input_tokens" in usage else None, usage.get("output_tokens")
    reason = said.get("stop_reason")
    if reason in ("refusal", "max_tokens", "pause_turn"):
        return Truth({"refusal": "refused", "max_tokens": "cut_off", "pause_turn": "unfinished"}[reason], *tokens)
    if any(block["type"] in ("server_tool_use", "mcp_tool_use") for block in said["content"]):
        return Truth("hosted_tool", *tokens)
    calls = [(block["name"], json.dumps(block["input"])) for block in said["content"] if block["type"] == "tool_use"]
    text = "".join(block["text"] for block in said["content"] if block["type"] == "text")
    return Truth(_content(exchange, calls, text), *tokens, text)


def _content(exchange: Exchange, calls: Sequence[tuple[str, str | None]], text: str) -> str:
    for name, arguments in calls:
        if name not in exchange.offered:
            return "unknown_tool"
        try:
            well = isinstance(json.loads(arguments or "{}"), dict)
        except ValueError:
            well = False
        if not well:
            return "tool_arguments"
    if calls:
        return "tool_calls"
    return "answered" if text.strip() else "empty"


def _answer(content: Any) -> str:
    """Without what some models think aloud in front of it."""
    return re.sub(r"^\s*<think>.*?</think>", "", _text(content), flags=re.DOTALL)


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(
            part.get("text", "") for part in content if isinstance(part, dict) and part.get("type") == "text"
        )
    return content or ""


# Streams, put together as the dialects' documentation says


def _events(text: str) -> Iterator[Json]:
    for block in re.split(r"\r?\n\r?\n", text):
        data = "".join(line[5:].strip() for line in block.splitlines() if line.startswith("data:"))
        if data and data != "[DONE]":
            yield json.loads(data)


def _chat_of(events: Sequence[Json]) -> Json:
    text, refusal, finish, usage = "", "", None, None
    calls: dict[int, Json] = {}
    for event in events:
        if event.get("error"):
            return {"error": event["error"]}
        usage = event.get("usage") or usage
        for choice in (event.get("choices") or [])[:1]:
            delta = choice.get("delta") or {}
            text += _text(delta.get("content"))
            refusal += delta.get("refusal") or ""
            finish = choice.get("finish_reason") or finish
            for call in delta.get("tool_calls") or ():
                function = calls.setdefault(call["index"], {"name": "", "arguments": ""})
                function["name"] += call["function"].get("name") or ""
                function["arguments"] += call["function"].get("arguments") or ""
    message = {"content": text, "refusal": refusal, "tool_calls": [{"function": call} for call in calls.values()]}
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}


def _response_of(events: Sequence[Json]) -> Json:
    last: Json = events[-1]
    if last["type"] == "error":
        return {"error": last.get("error") or last}
    response: Json = last["response"]
    return response


def _message_of(events: Sequence[Json]) -> Json:
    message: Json = {}
    inputs: dict[int, str] = {}
    for event in events:
        match event["type"]:
            case "message_start":
                message = {**event["message"], "content": []}
            case "content_block_start":
                message["content"].append(dict(event["content_block"]))
            case "content_block_delta":
                block, delta = message["content"][event["index"]], event["delta"]
                if delta["type"] == "text_delta":
                    block["text"] += delta["text"]
                if delta["type"] == "input_json_delta":
                    inputs[event["index"]] = inputs.get(event["index"], "") + delta["partial_json"]
            case "message_delta":
                message["stop_reason"] = event["delta"]["stop_reason"]
                message["usage"] = {**message["usage"], **{k: v for k, v in event["usage"].items() if v is not None}}
            case "error":
                return {"error": event["error"]}
    for index, text in inputs.items():
        message["content"][index]["input"] = json.loads(text or "{}")
    return message
