"""An answer of a model in each of the three dialects: as one JSON object, or as the events of a stream."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.providers.asked import Ask

Json = dict[str, Any]
PIECE = 40
"""Characters of one piece of a stream."""


class Call(NamedTuple):
    """`arguments` are the text as the model writes it, well-formed or not."""

    id: str
    name: str
    arguments: str


class Answer(NamedTuple):
    """`finish` is the chat dialect's word: stop, tool_calls, length or content_filter."""

    id: str
    text: str
    calls: tuple[Call, ...]
    finish: str
    input_tokens: int
    output_tokens: int


def whole(ask: Ask, answer: Answer) -> Json:
    return {"chat": _chat, "responses": _response, "messages": _message}[ask.dialect](ask, answer)


def stream(ask: Ask, answer: Answer) -> Iterator[bytes]:
    """Server-sent events, one at a time."""
    return {"chat": _chat_stream, "responses": _responses_stream, "messages": _messages_stream}[ask.dialect](
        ask, answer
    )


def _pieces(text: str) -> Iterator[str]:
    return (text[start : start + PIECE] for start in range(0, len(text), PIECE))


def _event(data: Json, name: str | None = None) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()


# chat/completions


def _chat(ask: Ask, answer: Answer) -> Json:
    message: Json = {"role": "assistant", "content": answer.text or None, "refusal": None}
    if answer.calls:
        message["tool_calls"] = [_chat_call(call) for call in answer.calls]
    choice = {"index": 0, "message": message, "finish_reason": answer.finish, "logprobs": None}
    return {**_chat_head(ask, answer, "chat.completion"), "choices": [choice], "usage": _chat_usage(answer)}


def _chat_head(ask: Ask, answer: Answer, kind: str) -> Json:
    return {"id": answer.id, "object": kind, "created": 1_790_000_000, "model": ask.model}


def _chat_call(call: Call) -> Json:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _chat_usage(answer: Answer) -> Json:
    total = answer.input_tokens + answer.output_tokens
    return {"prompt_tokens": answer.input_tokens, "completion_tokens": answer.output_tokens, "total_tokens": total}


def _chat_stream(ask: Ask, answer: Answer) -> Iterator[bytes]:
    head = _chat_head(ask, answer, "chat.completion.chunk")

    def chunk(delta: Json, finish: str | None = None) -> bytes:
        return _event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    yield chunk({"role": "assistant", "content": ""})
    for piece in _pieces(answer.text):
        yield chunk({"content": piece})
    for index, call in enumerate(answer.calls):
        yield chunk({"tool_calls": [{"index": index, **_chat_call(call._replace(arguments=""))}]})
        for piece in _pieces(call.arguments):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield chunk({}, answer.finish)
    if (ask.body.get("stream_options") or {}).get("include_usage"):
        yield _event({**head, "choices": [], "usage": _chat_usage(answer)})
    yield b"data: [DONE]\n\n"


# responses


def _response(ask: Ask, answer: Answer, status: str | None = None) -> Json:
    cut = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(answer.finish)
    usage = {
        "input_tokens": answer.input_tokens,
        "output_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    done = status is None
    return {
        "id": answer.id,
        "object": "response",
        "created_at": 1_790_000_000,
        "model": ask.model,
        "status": status or ("incomplete" if cut else "completed"),
        "incomplete_details": {"reason": cut} if cut and done else None,
        "error": None,
        "instructions": None,
        "metadata": {},
        "output": [item for item, _ in _response_items(answer)] if done else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage if done else None,
    }


def _response_items(answer: Answer) -> Iterator[tuple[Json, str]]:
    """Each item of the output, and the text of it that is streamed."""
    if answer.text or not answer.calls:
        part = {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}
        head = {"id": f"msg_{answer.id}", "type": "message", "role": "assistant", "status": "completed"}
        yield {**head, "content": [part]}, answer.text
    for call in answer.calls:
        head = {"id": f"fc_{call.id}", "type": "function_call", "status": "completed", "call_id": call.id}
        yield {**head, "name": call.name, "arguments": call.arguments}, call.arguments


def _responses_stream(ask: Ask, answer: Answer) -> Iterator[bytes]:
    count = 0

    def event(kind: str, **data: Any) -> bytes:
        nonlocal count
        count += 1
        return _event({"type": kind, "sequence_number": count - 1, **data}, kind)

    yield event("response.created", response=_response(ask, answer, "in_progress"))
    for index, (item, text) in enumerate(_response_items(answer)):
        place = {"output_index": index, "item_id": item["id"]}
        if item["type"] == "message":
            part = item["content"][0]
            yield event("response.output_item.added", output_index=index, item={**item, "content": []})
            yield event("response.content_part.added", **place, content_index=0, part={**part, "text": ""})
            for piece in _pieces(text):
                yield event("response.output_text.delta", **place, content_index=0, delta=piece, logprobs=[])
            yield event("response.output_text.done", **place, content_index=0, text=text, logprobs=[])
            yield event("response.content_part.done", **place, content_index=0, part=part)
        else:
            yield event("response.output_item.added", output_index=index, item={**item, "arguments": ""})
            for piece in _pieces(text):
                yield event("response.function_call_arguments.delta", **place, delta=piece)
            yield event("response.function_call_arguments.done", **place, arguments=text, name=item["name"])
        yield event("response.output_item.done", output_index=index, item=item)
    final = _response(ask, answer)
    yield event(f"response.{final['status']}", response=final)


# messages

_STOP_REASONS = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens", "content_filter": "refusal"}


def _message(ask: Ask, answer: Answer) -> Json:
    content: list[Json] = [{"type": "text", "text": answer.text}] if answer.text else []
    content += [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": json.loads(call.arguments)}
        for call in answer.calls
    ]
    return {
        "id": answer.id,
        "type": "message",
        "role": "assistant",
        "model": ask.model,
        "content": content,
        "stop_reason": _STOP_REASONS[answer.finish],
        "stop_sequence": None,
        "usage": {"input_tokens": answer.input_tokens, "output_tokens": answer.output_tokens},
    }


def _messages_stream(ask: Ask, answer: Answer) -> Iterator[bytes]:
    def event(kind: str, **data: Any) -> bytes:
        return _event({"type": kind, **data}, kind)

    message = _message(ask, answer._replace(calls=()))
    begun = {**message, "content": [], "stop_reason": None, "usage": {**message["usage"], "output_tokens": 1}}
    yield event("message_start", message=begun)
    blocks: list[tuple[Json, str, str, str]] = []
    if answer.text:
        blocks.append(({"type": "text", "text": ""}, "text_delta", "text", answer.text))
    for call in answer.calls:
        block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        blocks.append((block, "input_json_delta", "partial_json", call.arguments))
    for index, (block, delta, key, text) in enumerate(blocks):
        yield event("content_block_start", index=index, content_block=block)
        for piece in _pieces(text):
            yield event("content_block_delta", index=index, delta={"type": delta, key: piece})
        yield event("content_block_stop", index=index)
    delta_of_end = {"stop_reason": _STOP_REASONS[answer.finish], "stop_sequence": None}
    yield event("message_delta", delta=delta_of_end, usage={"output_tokens": answer.output_tokens})
    yield event("message_stop")
