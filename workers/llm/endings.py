"""How a call to a model may end: a closed list. What an answer is, and what follows from it; `causes` has exceptions.

Pure: no I/O, no clock. Only `answered` and `tool_calls` are answers that may be used; whatever is not known to be one
of them is something else, and never a success.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from pydantic_ai.messages import (
    ModelResponse,
    NativeToolCallPart,
    NativeToolReturnPart,
    TextPart,
    ToolCallPart,
)

from contracts.errors import Failure
from contracts.outcomes import Failed

_DETAIL_CHARACTERS = 10_000


class Course(StrEnum):
    """What follows: the answer is used, the model is told what is wrong with it, or the attempt fails with a code."""

    USE = "use"
    TELL = "tell"
    FAIL = "fail"


class Kind(StrEnum):
    """The code of each but the first two is `model.` and this; `contracts.errors.CODES` says what it means."""

    ANSWERED = "answered"
    TOOL_CALLS = "tool_calls"

    CUT_OFF = "cut_off"
    EMPTY = "empty"
    UNKNOWN_TOOL = "unknown_tool"
    TOOL_ARGUMENTS = "tool_arguments"
    FENCED_JSON = "fenced_json"
    HALF_JSON = "half_json"
    NO_JSON = "no_json"

    REFUSED = "refused"
    FILTERED = "filtered"
    HOSTED_TOOL = "hosted_tool"
    UNFINISHED = "unfinished"
    UNKNOWN_FINISH = "unknown_finish"

    ERROR_IN_ANSWER = "error_in_answer"
    TOOL_REJECTED = "tool_rejected"
    RATE_LIMITED = "rate_limited"
    QUOTA = "quota"
    OVERLOADED = "overloaded"
    SERVER_ERROR = "server_error"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    CUT_STREAM = "cut_stream"
    NOT_JSON = "not_json"
    MALFORMED = "malformed"
    REDIRECTED = "redirected"
    AUTH = "auth"
    NOT_FOUND = "not_found"
    CONTEXT_WINDOW = "context_window"
    BAD_REQUEST = "bad_request"
    UNSUPPORTED = "unsupported"


_USED = (Kind.ANSWERED, Kind.TOOL_CALLS)

_TOLD: Mapping[Kind, str] = {
    Kind.CUT_OFF: "Your answer was cut off because it reached the limit of output tokens, and was not used. "
    "Answer again, completely, in fewer words.",
    Kind.EMPTY: "Your answer was empty. Answer with what was asked for, or call one of the tools.",
    Kind.UNKNOWN_TOOL: "You called a tool that does not exist. {said}",
    Kind.TOOL_ARGUMENTS: "The arguments of your tool call could not be read: {said}. "
    "Call the tool again with one complete JSON object that fits its schema.",
    Kind.FENCED_JSON: "Your answer is JSON in a code fence or between other text. "
    "Answer with the JSON alone: no fence, nothing before or after it.",
    Kind.HALF_JSON: "Your answer begins as JSON but is not complete, valid JSON: {said}. "
    "Answer again with the whole JSON and nothing else.",
    Kind.NO_JSON: "Your answer is not JSON. Answer with JSON of the asked form and nothing else.",
}

_SHOWN: Mapping[Kind, str] = {
    Kind.CUT_OFF: "the model's answer reached the limit of output tokens before it was complete",
    Kind.EMPTY: "the model's answer was empty",
    Kind.UNKNOWN_TOOL: "the model called a tool that it does not have",
    Kind.TOOL_ARGUMENTS: "the model called a tool with arguments that are no JSON object",
    Kind.FENCED_JSON: "the model put its JSON into a code fence or between other text",
    Kind.HALF_JSON: "the model's JSON is not complete",
    Kind.NO_JSON: "the model's answer is not JSON",
    Kind.REFUSED: "the model refused",
    Kind.FILTERED: "a content filter of the provider stopped the question or the answer",
    Kind.HOSTED_TOOL: "the provider ran a tool of its own, which nothing here allows",
    Kind.UNFINISHED: "the provider put the answer off instead of finishing it",
    Kind.UNKNOWN_FINISH: "the answer ended for a reason that is not known",
    Kind.ERROR_IN_ANSWER: "the provider reported an error inside an answer",
    Kind.TOOL_REJECTED: "the provider refused a tool call that the model had made",
    Kind.RATE_LIMITED: "the provider refused the call because a rate limit was reached",
    Kind.QUOTA: "the account's quota, credit or spending limit is used up",
    Kind.OVERLOADED: "the provider is overloaded or not available",
    Kind.SERVER_ERROR: "the provider failed",
    Kind.TIMEOUT: "the provider did not answer in time",
    Kind.UNREACHABLE: "the provider could not be reached",
    Kind.CUT_STREAM: "the connection ended before the answer was complete",
    Kind.NOT_JSON: "something that is not JSON came instead of an answer, such as the HTML page of a proxy",
    Kind.MALFORMED: "the answer does not have the documented form",
    Kind.REDIRECTED: "the provider's address answers with a redirect, which is never followed",
    Kind.AUTH: "the provider did not accept the credentials, or they do not allow this model",
    Kind.NOT_FOUND: "the provider has no such model, or the address is wrong",
    Kind.CONTEXT_WINDOW: "the conversation is longer than the model can take",
    Kind.BAD_REQUEST: "the provider refused the request as invalid",
    Kind.UNSUPPORTED: "the call needs something that is not supported here",
}

_FINISHED = frozenset({"complete", "end_turn", "eos", "eos_token", "stop_sequence", "tool_use"})
"""Finish reasons of compatible servers that pydantic-ai does not know and that mean: all has been said."""
_STOPPED_BY_FILTER = frozenset({"guardrail_intervened", "content_filtered", "safety", "blocked", "recitation"})


@dataclass(frozen=True)
class Ending:
    """`text` is a safe sentence for people, `words` are for the model (course TELL), `detail` is what really came: for
    the attempt's record only. `after_seconds` is how long the provider asked to wait."""

    kind: Kind
    text: str = ""
    words: str = ""
    detail: str | None = None
    after_seconds: float | None = None

    @classmethod
    def of(
        cls, kind: Kind, said: str = "", *, shown: str = "", detail: str | None = None, after: float | None = None
    ) -> Self:
        """`said` goes into the words for the model, `shown` behind the sentence for people."""
        words = _TOLD[kind].format(said=said) if kind in _TOLD else ""
        kept = detail[:_DETAIL_CHARACTERS] if detail else None
        return cls(kind, _SHOWN[kind] + (f" ({shown})" if shown else ""), words, kept, after)

    @property
    def course(self) -> Course:
        if self.kind in _USED:
            return Course.USE
        return Course.TELL if self.kind in _TOLD else Course.FAIL

    @property
    def code(self) -> str:
        return f"model.{self.kind}"

    def outcome(self) -> Failed:
        """What the attempt comes to, where the model is not told or was told too often."""
        failure = Failure(code=self.code, text=self.text, detail=self.detail)
        return Failed(failure=failure, after_seconds=self.after_seconds)


def ending_of_response(response: ModelResponse, *, tools: Collection[str]) -> Ending:
    """What an answer is. `tools` are the names that the model was given, those for its output included."""
    why = _finish(response)
    if why is not None:
        return why
    if any(isinstance(part, NativeToolCallPart | NativeToolReturnPart) for part in response.parts):
        names = sorted({part.tool_name for part in response.parts if isinstance(part, NativeToolCallPart)})
        return Ending.of(Kind.HOSTED_TOOL, detail=f"hosted tools: {', '.join(names)}")
    calls = [part for part in response.parts if isinstance(part, ToolCallPart)]
    for call in calls:
        wrong = _wrong_with(call, tools)
        if wrong is not None:
            return wrong
    if calls:
        return Ending(Kind.TOOL_CALLS)
    text = "".join(part.content for part in response.parts if isinstance(part, TextPart))
    return Ending(Kind.ANSWERED) if text.strip() else Ending.of(Kind.EMPTY)


def ending_of_text(text: str) -> Ending:
    """What a text is where JSON is due: whole JSON is an answer, all else is told apart."""
    stripped = text.strip()
    if not stripped:
        return Ending.of(Kind.EMPTY)
    try:
        json.loads(stripped)
    except ValueError as error:
        found, said = _find_json(stripped), _where(error)
    else:
        return Ending(Kind.ANSWERED)
    if found:
        return Ending.of(Kind.FENCED_JSON, detail=text)
    if stripped[0] in "{[" or stripped.startswith("```"):
        return Ending.of(Kind.HALF_JSON, said, detail=text)
    return Ending.of(Kind.NO_JSON, detail=text)


def _finish(response: ModelResponse) -> Ending | None:
    """Why the answer ended, where that alone decides."""
    details = response.provider_details or {}
    raw = str(details.get("finish_reason") or "").lower()
    if response.state == "suspended":
        return Ending.of(Kind.UNFINISHED, detail=raw or None)
    if response.state in ("incomplete", "interrupted"):
        return Ending.of(Kind.CUT_STREAM, detail=raw or None)
    match response.finish_reason:
        case "content_filter":
            refused = details.get("refusal") or raw == "refusal"
            said = str(details.get("refusal") or raw)
            return Ending.of(Kind.REFUSED if refused else Kind.FILTERED, detail=said)
        case "length":
            window = raw == "model_context_window_exceeded"
            return Ending.of(Kind.CONTEXT_WINDOW if window else Kind.CUT_OFF, detail=raw)
        case "error":
            return Ending.of(Kind.ERROR_IN_ANSWER, detail=raw)
        case None if raw in _STOPPED_BY_FILTER:
            return Ending.of(Kind.FILTERED, detail=raw)
        case None if raw == "error":
            return Ending.of(Kind.ERROR_IN_ANSWER, detail=raw)
        case None if raw and raw not in _FINISHED:
            return Ending.of(Kind.UNKNOWN_FINISH, detail=raw)
    return None


def _wrong_with(call: ToolCallPart, tools: Collection[str]) -> Ending | None:
    if call.tool_name not in tools:
        have = f"The tools are: {', '.join(sorted(tools))}." if tools else "There are no tools: answer without them."
        return Ending.of(Kind.UNKNOWN_TOOL, have, detail=call.tool_name)
    if isinstance(call.args, str) and call.args.strip():
        try:
            arguments = json.loads(call.args)
        except ValueError as error:
            return Ending.of(Kind.TOOL_ARGUMENTS, _where(error), detail=f"{call.tool_name}: {call.args}")
        if not isinstance(arguments, dict):
            return Ending.of(Kind.TOOL_ARGUMENTS, "they are no object", detail=f"{call.tool_name}: {call.args}")
    return None


def _find_json(text: str) -> bool:
    """Whether a whole JSON object or array stands between other text."""
    decoder = json.JSONDecoder()
    for start, character in enumerate(text):
        if character in "{[":
            try:
                decoder.raw_decode(text, start)
            except ValueError:
                return False
            return True
    return False


def _where(error: ValueError) -> str:
    return str(error).partition(": line")[0].lower() if isinstance(error, json.JSONDecodeError) else "it is no JSON"
