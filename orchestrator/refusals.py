"""Errors of the HTTP edge, and which status every code of ours is: the API writes them, the client reads them back."""

from collections.abc import Mapping

from contracts.errors import Conflict, InvalidInput, NotFound, OrchestratorError, Unavailable


class Unauthenticated(OrchestratorError):
    code = "unauthenticated"


class Forbidden(OrchestratorError):
    code = "forbidden"


class Malformed(OrchestratorError):
    """The body or a header is not what HTTP or JSON allow, before any rule of ours."""

    code = "malformed"


class TooLarge(OrchestratorError):
    code = "too_large"


class TooSlow(OrchestratorError):
    code = "too_slow"
    retryable = True


class UnsupportedMediaType(OrchestratorError):
    code = "unsupported_media_type"


class NotAcceptable(OrchestratorError):
    code = "not_acceptable"


class MethodNotAllowed(OrchestratorError):
    code = "method_not_allowed"


class TooManyRequests(OrchestratorError):
    """More than this key may ask for now."""

    code = "rate_limited"
    retryable = True

    def __init__(self, text: str, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(text)
        self.retry_after_seconds = retry_after_seconds


class QuotaReached(TooManyRequests):
    """More than this tenant may have."""

    code = "quota_reached"


class Overloaded(Unavailable):
    """Everything answers, but there is no room for more."""

    code = "overloaded"

    def __init__(self, text: str, retry_after_seconds: float = 1.0) -> None:
        super().__init__(text)
        self.retry_after_seconds = retry_after_seconds


STATUS_OF: Mapping[type[OrchestratorError], int] = {
    Malformed: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    MethodNotAllowed: 405,
    NotAcceptable: 406,
    TooSlow: 408,
    Conflict: 409,
    TooLarge: 413,
    UnsupportedMediaType: 415,
    InvalidInput: 422,
    TooManyRequests: 429,
    Unavailable: 503,
}


def status_of(error: OrchestratorError) -> int:
    """The status of an error; 500 for one that no caller can mend."""
    return next((status for kind, status in STATUS_OF.items() if isinstance(error, kind)), 500)


def error_of(status: int, code: str, text: str, field: str) -> OrchestratorError:
    """The error that a problem of this status stands for, as the client raises it."""
    kind = next((kind for kind, number in STATUS_OF.items() if number == status), None)
    if kind is InvalidInput:
        return InvalidInput(text, field=field)
    error = kind(text) if kind is not None else (Unavailable if status >= 502 else OrchestratorError)(text)
    error.code = code
    return error
