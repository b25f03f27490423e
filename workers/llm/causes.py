"""Why a call to a model failed: from an exception of a client library, or of the wire under it, to an ending. Pure."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import httpx2
from pydantic_ai import exceptions as raised

from workers.llm.endings import Ending, Kind
from workers.llm.wire import Fault, Wrong

LONGEST_WAIT_SECONDS = 86_400.0
"""A longer Retry-After is taken as this one."""
_PLAIN_CODE = re.compile(r"^[a-zA-Z0-9_.-]{1,60}$")
"""What of a provider's own words is safe to show: a machine-readable code."""
_FILTER_CODES = ("content_filter", "content_policy_violation", "invalid_prompt", "moderation_blocked")
_FILTER_PHRASES = ("content filtering policy", "content management policy", "usage policy", "usage policies")


def ending_of_error(error: BaseException) -> Ending:
    """What an exception of a model's client is. What is not known is `malformed`: the client failed on the answer."""
    for each in _chain(error):
        if isinstance(each, Fault):
            return _of_fault(each)
    for each in _chain(error):
        if isinstance(each, raised.AgentRunError | raised.UserError | httpx2.RequestError):
            return Ending.of(_kind_of(each), shown=_facts(each), detail=_detail(error), after=_after(each))
    return Ending.of(Kind.MALFORMED, detail=_detail(error))


def _of_fault(fault: Fault) -> Ending:
    detail = f"{fault}: {_text(fault.said)}"
    match fault.wrong:
        case Wrong.NOT_JSON:
            return Ending.of(Kind.NOT_JSON, detail=detail)
        case Wrong.NO_ANSWER:
            return Ending.of(Kind.MALFORMED, detail=detail)
        case Wrong.CUT:
            return Ending.of(Kind.CUT_STREAM, detail=detail)
        case Wrong.REDIRECT:
            return Ending.of(Kind.REDIRECTED, detail=detail)
        case Wrong.UNSUPPORTED:
            return Ending.of(Kind.UNSUPPORTED, shown=str(fault))
        case Wrong.ERROR:
            return Ending.of(_kind_of_said(fault.said) or Kind.ERROR_IN_ANSWER, detail=detail)


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
