"""How a call to a model may end: a closed list. What an answer or an exception is, and what follows from it.

Pure: no I/O, no clock. Only `answered` and `tool_calls` are answers that may be used; whatever is not known to be one
of them is something else, and never a success.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import httpx2
from pydantic_ai import exceptions as raised
from pydantic_ai.messages import (
    ModelResponse,
    NativeToolCallPart,
    NativeToolReturnPart,
    TextPart,
    ToolCallPart,
)

from contracts.errors import Failure
from contracts.outcomes import Failed
from workers.llm.wire import Fault, Wrong

LONGEST_WAIT_SECONDS = 86_400.0
"""A longer Retry-After is taken as this one."""
_DETAIL_CHARACTERS = 10_000
_PLAIN_CODE = re.compile(r"^[a-zA-Z0-9_.-]{1,60}$")
"""What of a provider's own words is safe to show: a machine-readable code."""


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
_FILTER_CODES = ("content_filter", "content_policy_violation", "invalid_prompt", "moderation_blocked")
_FILTER_PHRASES = ("content filtering policy", "content management policy", "usage policy", "usage policies")


@dataclass(frozen=True)
class Ending:
    """`text` is a safe sentence for people, `words` are for the model (course TELL), `detail` is what really came: for
    the attempt's record only. `after_seconds` is how long the provider asked to wait."""

    kind: Kind
    text: str = ""
    words: str = ""
    detail: str | None = None
    after_seconds: float | None = None

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
        return _ending(Kind.HOSTED_TOOL, detail=f"hosted tools: {', '.join(names)}")
    calls = [part for part in response.parts if isinstance(part, ToolCallPart)]
    for call in calls:
        wrong = _wrong_with(call, tools)
        if wrong is not None:
            return wrong
    if calls:
        return Ending(Kind.TOOL_CALLS)
    text = "".join(part.content for part in response.parts if isinstance(part, TextPart))
    return Ending(Kind.ANSWERED) if text.strip() else _ending(Kind.EMPTY)


def ending_of_text(text: str) -> Ending:
    """What a text is where JSON is due: whole JSON is an answer, all else is told apart."""
    stripped = text.strip()
    if not stripped:
        return _ending(Kind.EMPTY)
    try:
        json.loads(stripped)
    except ValueError as error:
        found, said = _find_json(stripped), _where(error)
    else:
        return Ending(Kind.ANSWERED)
    if found:
        return _ending(Kind.FENCED_JSON, detail=text)
    if stripped[0] in "{[" or stripped.startswith("```"):
        return _ending(Kind.HALF_JSON, said, detail=text)
    return _ending(Kind.NO_JSON, detail=text)


def ending_of_error(error: BaseException) -> Ending:
    """What an exception of a model's client is. What is not known is `malformed`: the client failed on the answer."""
    for each in _chain(error):
        if isinstance(each, Fault):
            return _of_fault(each)
    for each in _chain(error):
        if isinstance(each, raised.AgentRunError | raised.UserError | httpx2.RequestError):
            return _ending(_kind_of(each), shown=_facts(each), detail=_detail(error), after=_after(each))
    return _ending(Kind.MALFORMED, detail=_detail(error))


def _finish(response: ModelResponse) -> Ending | None:
    """Why the answer ended, where that alone decides."""
    details = response.provider_details or {}
    raw = str(details.get("finish_reason") or "").lower()
    if response.state == "suspended":
        return _ending(Kind.UNFINISHED, detail=raw or None)
    if response.state in ("incomplete", "interrupted"):
        return _ending(Kind.CUT_STREAM, detail=raw or None)
    match response.finish_reason:
        case "content_filter":
            refused = details.get("refusal") or raw == "refusal"
            said = str(details.get("refusal") or raw)
            return _ending(Kind.REFUSED if refused else Kind.FILTERED, detail=said)
        case "length":
            window = raw == "model_context_window_exceeded"
            return _ending(Kind.CONTEXT_WINDOW if window else Kind.CUT_OFF, detail=raw)
        case "error":
            return _ending(Kind.ERROR_IN_ANSWER, detail=raw)
        case None if raw in _STOPPED_BY_FILTER:
            return _ending(Kind.FILTERED, detail=raw)
        case None if raw == "error":
            return _ending(Kind.ERROR_IN_ANSWER, detail=raw)
        case None if raw and raw not in _FINISHED:
            return _ending(Kind.UNKNOWN_FINISH, detail=raw)
    return None


def _wrong_with(call: ToolCallPart, tools: Collection[str]) -> Ending | None:
    if call.tool_name not in tools:
        have = f"The tools are: {', '.join(sorted(tools))}." if tools else "There are no tools: answer without them."
        return _ending(Kind.UNKNOWN_TOOL, have, detail=call.tool_name)
    if isinstance(call.args, str) and call.args.strip():
        try:
            arguments = json.loads(call.args)
        except ValueError as error:
            return _ending(Kind.TOOL_ARGUMENTS, _where(error), detail=f"{call.tool_name}: {call.args}")
        if not isinstance(arguments, dict):
            return _ending(Kind.TOOL_ARGUMENTS, "they are no object", detail=f"{call.tool_name}: {call.args}")
    return None


def _of_fault(fault: Fault) -> Ending:
    detail = f"{fault}: {_text(fault.said)}"
    match fault.wrong:
        case Wrong.NOT_JSON:
            return _ending(Kind.NOT_JSON, detail=detail)
        case Wrong.NO_ANSWER:
            return _ending(Kind.MALFORMED, detail=detail)
        case Wrong.CUT:
            return _ending(Kind.CUT_STREAM, detail=detail)
        case Wrong.REDIRECT:
            return _ending(Kind.REDIRECTED, detail=detail)
        case Wrong.UNSUPPORTED:
            return _ending(Kind.UNSUPPORTED, shown=str(fault))
        case Wrong.ERROR:
            return _ending(_kind_of_said(fault.said) or Kind.ERROR_IN_ANSWER, detail=detail)


def _kind_of(error: Exception) -> Kind:
    match error:
        case raised.ModelRequestTimeout() | raised.ModelTimeoutError() | httpx2.TimeoutException():
            return Kind.TIMEOUT
        case raised.ModelConnectionError(phase="connect" | "pool") | httpx2.ConnectError():
            return Kind.UNREACHABLE
        case raised.ModelConnectionError() | httpx2.RequestError():
            return Kind.CUT_STREAM
        case raised.ModelQuotaExceededError():
            return Kind.QUOTA
        case raised.ModelRateLimitError():
            return Kind.RATE_LIMITED
        case raised.ModelUnavailableError():
            return Kind.OVERLOADED
        case raised.ModelContextWindowExceededError():
            return Kind.CONTEXT_WINDOW
        case raised.ModelAuthenticationError():
            return Kind.AUTH
        case raised.ModelNotFoundError():
            return Kind.NOT_FOUND
        case raised.ModelServerError():
            return Kind.SERVER_ERROR
        case raised.ModelAPIError():
            return _kind_of_said(error.body) or _kind_of_status(getattr(error, "status_code", None))
        case raised.ContentFilterError():
            return Kind.FILTERED
        case raised.OutputTokenLimitExceeded():
            return Kind.CUT_OFF
        case raised.UserError():
            return Kind.UNSUPPORTED
        case _:
            return Kind.MALFORMED


def _kind_of_said(said: object) -> Kind | None:
    """By the words of an error object: its code, its type, its message. Providers agree on none of them."""
    if isinstance(said, Mapping) and isinstance(said.get("error"), Mapping):
        said = said["error"]
    fields: Mapping[str, object] = said if isinstance(said, Mapping) else {"message": said}
    code, kind = str(fields.get("code") or ""), str(fields.get("type") or "")
    message = str(fields.get("message") or "").lower()
    if code in _FILTER_CODES or any(phrase in message for phrase in _FILTER_PHRASES):
        return Kind.FILTERED
    for word in (code, kind):
        if word in _SAID:
            return _SAID[word]
        if word.isdigit() and 400 <= int(word) < 600:
            return _kind_of_status(int(word))
    return None


_SAID: Mapping[str, Kind] = {
    "tool_use_failed": Kind.TOOL_REJECTED,
    "insufficient_quota": Kind.QUOTA,
    "billing_error": Kind.QUOTA,
    "rate_limit_exceeded": Kind.RATE_LIMITED,
    "rate_limit_error": Kind.RATE_LIMITED,
    "too_many_requests": Kind.RATE_LIMITED,
    "overloaded_error": Kind.OVERLOADED,
    "overloaded": Kind.OVERLOADED,
    "server_is_overloaded": Kind.OVERLOADED,
    "service_unavailable": Kind.OVERLOADED,
    "service_unavailable_error": Kind.OVERLOADED,
    "server_error": Kind.SERVER_ERROR,
    "api_error": Kind.SERVER_ERROR,
    "timeout_error": Kind.TIMEOUT,
    "context_length_exceeded": Kind.CONTEXT_WINDOW,
    "request_too_large": Kind.CONTEXT_WINDOW,
    "invalid_api_key": Kind.AUTH,
    "authentication_error": Kind.AUTH,
    "permission_error": Kind.AUTH,
    "model_not_found": Kind.NOT_FOUND,
    "not_found_error": Kind.NOT_FOUND,
    "invalid_request_error": Kind.BAD_REQUEST,
}

_BY_STATUS: Mapping[int, Kind] = {
    401: Kind.AUTH,
    402: Kind.QUOTA,
    403: Kind.AUTH,
    404: Kind.NOT_FOUND,
    408: Kind.TIMEOUT,
    409: Kind.OVERLOADED,
    413: Kind.CONTEXT_WINDOW,
    425: Kind.OVERLOADED,
    429: Kind.RATE_LIMITED,
    503: Kind.OVERLOADED,
    504: Kind.TIMEOUT,
    529: Kind.OVERLOADED,
}


def _kind_of_status(status: int | None) -> Kind:
    if status is None:
        return Kind.ERROR_IN_ANSWER
    return _BY_STATUS.get(status) or (Kind.SERVER_ERROR if status >= 500 else Kind.BAD_REQUEST)


def _ending(
    kind: Kind, said: str = "", *, shown: str = "", detail: str | None = None, after: float | None = None
) -> Ending:
    """`said` goes into the words for the model, `shown` behind the sentence for people."""
    words = _TOLD[kind].format(said=said) if kind in _TOLD else ""
    kept = detail[:_DETAIL_CHARACTERS] if detail else None
    return Ending(kind, _SHOWN[kind] + (f" ({shown})" if shown else ""), words, kept, after)


def _facts(error: BaseException) -> str:
    """Status and code of a provider's error, as far as they are nothing but that."""
    code = str(getattr(error, "provider_error_code", None) or getattr(error, "provider_error_type", None) or "")
    facts = [f"status {error.status_code}"] if isinstance(error, raised.ModelHTTPError) else []
    facts += [code] if _PLAIN_CODE.match(code) and not code.isdigit() else []
    return ", ".join(facts)


def _after(error: BaseException) -> float | None:
    """How long the provider asked to wait. pydantic-ai reads whole seconds and dates, not the `1.5` that some send."""
    after = getattr(error, "retry_after", None)
    if after is None:
        try:
            after = float((getattr(error, "headers", None) or {}).get("retry-after", ""))
        except ValueError:
            return None
    return min(after, LONGEST_WAIT_SECONDS) if after >= 0 else None


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


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and the members of a group."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions
        waiting += [cause for cause in (each.__cause__, each.__context__) if cause is not None]


def _detail(error: BaseException) -> str:
    return "\n".join(f"{type(each).__name__}: {each}" for each in _chain(error))


def _text(said: Any) -> str:
    try:
        return said if isinstance(said, str) else json.dumps(said)
    except (TypeError, ValueError):
        return repr(said)
