"""Every answer that is not a success is problem+json (RFC 9457), whoever refused: us, the router or the framework."""

import logging
import math
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException

from contracts.errors import InvalidInput, NotFound, OrchestratorError, Unavailable
from orchestrator.refusals import Malformed, MethodNotAllowed, status_of
from shared_state.engine import database_is_away, is_conflict
from shared_state.shapes import FieldError, Problem

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2
_ERRORS_LIMIT = 20
_TEXT_LIMIT = 4000
_FIELD_LIMIT = 300
_LOG = logging.getLogger("orchestrator.api")


class InvalidFields(InvalidInput):
    """Several fields at once."""

    def __init__(self, errors: list[FieldError]) -> None:
        first = errors[0]
        super().__init__(
            f"{first['field']}: {first['text']}" if first["field"] else first["text"], field=first["field"]
        )
        self.errors = errors[:_ERRORS_LIMIT]


def at(error: OrchestratorError, where: str) -> OrchestratorError:
    """The same refusal, of one item of a list: its fields begin with `where`."""
    if isinstance(error, InvalidFields):
        return InvalidFields([{**each, "field": _joined(where, each["field"])} for each in error.errors])
    if isinstance(error, InvalidInput):
        return InvalidInput(error.text, field=_joined(where, error.field))
    return error


def problem_of(error: OrchestratorError) -> Problem:
    status = status_of(error)
    problem: Problem = {
        "type": f"urn:orchestrator:problem:{error.code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": error.text[:_TEXT_LIMIT]
        if status != HTTPStatus.INTERNAL_SERVER_ERROR
        else "the service failed; its log says why",
        "code": error.code,
    }
    if isinstance(error, InvalidInput) and error.field:
        problem["field"] = error.field[:_FIELD_LIMIT]
    if isinstance(error, InvalidFields) and len(error.errors) > 1:
        problem["errors"] = error.errors
    return problem


def respond(error: OrchestratorError) -> JSONResponse:
    problem = problem_of(error)
    headers: dict[str, str] = {}
    if problem["status"] == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if problem["status"] in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        # Whole seconds is what HTTP allows; rounded up, so that who comes back then is not too early.
        headers["Retry-After"] = str(max(1, math.ceil(getattr(error, "retry_after_seconds", RETRY_AFTER_SECONDS))))
    if problem["status"] in (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT):
        # The rest of the body may be on its way, without end: only closing stops its sender.
        headers["Connection"] = "close"
    return JSONResponse(problem, problem["status"], headers=headers, media_type=MEDIA_TYPE)


def invalid_fields(error: ValidationError | RequestValidationError, *, skip: int = 0) -> InvalidFields:
    """Pydantic's findings in our words; `skip` drops the leading parts of each path."""
    found: list[FieldError] = []
    for each in error.errors()[:_ERRORS_LIMIT]:
        path = ".".join(str(part) for part in each["loc"][skip:])
        found.append({"field": path, "text": _remedy(each)})
    return InvalidFields(found)


def install(api: FastAPI, note_away: Callable[[], None]) -> None:
    """Make `api` answer every refusal and failure in this form; `note_away` is told when Postgres did not answer."""

    @api.exception_handler(OrchestratorError)
    def _ours(_request: Request, error: OrchestratorError) -> JSONResponse:
        if status_of(error) == HTTPStatus.INTERNAL_SERVER_ERROR:
            _LOG.error("request failed", exc_info=error)
        if isinstance(error, Unavailable) and database_is_away(error):
            note_away()
        return respond(error)

    @api.exception_handler(RequestValidationError)
    def _framework(_request: Request, error: RequestValidationError) -> JSONResponse:
        return respond(invalid_fields(error, skip=1))

    @api.exception_handler(HTTPException)
    def _router(request: Request, error: HTTPException) -> JSONResponse:
        answer = respond(_routing_error(request, error))
        for name, value in (error.headers or {}).items():
            answer.headers[name] = value
        return answer

    @api.exception_handler(DBAPIError)
    def _database(_request: Request, error: DBAPIError) -> JSONResponse:
        if is_conflict(error) or error.connection_invalidated:
            return respond(Unavailable("the database was too busy for this; try again"))
        _LOG.error("request failed in the database", exc_info=error)
        return respond(OrchestratorError("the service failed"))

    @api.exception_handler(Exception)
    def _unexpected(_request: Request, error: Exception) -> JSONResponse:
        # The framework raises it again afterwards, so the server's log gets the traceback; the caller does not.
        return respond(OrchestratorError(type(error).__name__))


def _routing_error(request: Request, error: HTTPException) -> OrchestratorError:
    if error.status_code == HTTPStatus.NOT_FOUND:
        return NotFound("there is nothing at this address; /openapi.json lists what there is")
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "")
        return MethodNotAllowed(f"{request.method} is not possible here; use {allowed}")
    return Malformed(str(error.detail))


def _joined(where: str, field: str) -> str:
    return f"{where}.{field}" if field else where


def _remedy(each: Any) -> str:
    """One finding as a text for its author; never the input itself, which may be large or secret."""
    kind, message = each["type"], str(each["msg"]).removeprefix("Value error, ")
    if kind == "extra_forbidden":
        return "there is no such field; remove it"
    if kind == "missing":
        return "this field is missing; add it"
    return message[:1].lower() + message[1:]
