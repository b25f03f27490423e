"""The parts of the OpenAPI document that the signatures do not tell: bodies, which we read ourselves, and problems."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, TypeAdapter

from orchestrator.api.problems import MEDIA_TYPE
from shared_state.shapes import Problem

_REF = "#/components/schemas/{model}"
_INNER_REF = "#/components/schemas/{outer}{{model}}"
_PROBES: Mapping[str, list[HTTPStatus]] = {"/v1/health": [], "/v1/ready": [HTTPStatus.SERVICE_UNAVAILABLE]}
"""They need no key."""


def body_of(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """`openapi_extra` for an operation that takes this model as JSON."""
    return _request_body({"$ref": _REF.format(model=model.__name__)}, required=required)


def _request_body(schema: dict[str, Any], *, required: bool) -> dict[str, Any]:
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


_TASK = {"$ref": _REF.format(model="Submission")}
SUBMISSION_BODY = _request_body(
    {"oneOf": [_TASK, {"type": "array", "items": _TASK, "minItems": 1, "maxItems": 1000}]}, required=True
)


def complete(document: dict[str, Any], models: Sequence[type[BaseModel]], page_size: int) -> dict[str, Any]:
    """Add the schemas that bodies refer to, bearer keys, and the problem that any operation may answer."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for model in models:
        name = model.__name__
        _add(schemas, name, model.model_json_schema(ref_template=_INNER_REF.format(outer=name)))
    problem_schema = TypeAdapter(Problem).json_schema(ref_template=_INNER_REF.format(outer="Problem"))
    _add(schemas, "Problem", problem_schema)
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    problem = {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            operation["responses"].pop("422", None)
            for parameter in operation.get("parameters", []):
                _refine(parameter, page_size)
            for status in _refusals(method, path, operation):
                operation["responses"][str(status.value)] = {"description": status.phrase, "content": problem}
            if path not in _PROBES:
                operation["security"] = [{"key": []}]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    return document


def _refine(parameter: dict[str, Any], page_size: int) -> None:
    """A page's largest size is a setting; and an absent header is not there, rather than null."""
    schema = parameter["schema"]
    if parameter["name"] == "limit":
        schema["maximum"] = page_size
    if parameter["in"] == "header":
        (kind,) = [each for each in schema.pop("anyOf") if each.get("type") != "null"]
        schema.update(kind)


def _refusals(method: str, path: str, operation: dict[str, Any]) -> list[HTTPStatus]:
    """Every status that this operation may refuse a request with. A 500 is a defect, so none documents it."""
    if path in _PROBES:
        return _PROBES[path]
    found = [HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.UNPROCESSABLE_ENTITY]
    found += [HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE]
    if "{" in path:
        found.append(HTTPStatus.NOT_FOUND)
    if method == "post" or path.endswith("/result"):
        found.append(HTTPStatus.CONFLICT)
    if path.endswith("/events"):
        found.append(HTTPStatus.NOT_ACCEPTABLE)
    if "requestBody" in operation:
        found += [
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.REQUEST_TIMEOUT,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        ]
    return sorted(found)


def install(api: FastAPI, models: Sequence[type[BaseModel]], page_size: int) -> None:
    """Make `/openapi.json` complete."""
    plain = api.openapi

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is None:
            api.openapi_schema = complete(plain(), models, page_size)
        return api.openapi_schema

    setattr(api, "openapi", openapi)  # noqa: B010 - the framework's documented way; a plain assignment fails strict types


def _add(schemas: dict[str, Any], name: str, schema: dict[str, Any]) -> None:
    """Under its name, what it is made of under its name too: a plan's `Step` is not the `Step` of an answer."""
    schemas.update({f"{name}{inner}": part for inner, part in schema.pop("$defs", {}).items()})
    schemas[name] = schema
