"""The parts of the OpenAPI document that the signatures do not tell: bodies, which we read ourselves, and problems."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, TypeAdapter

from orchestrator.api.problems import MEDIA_TYPE
from shared_state.shapes import Problem

_REF = "#/components/schemas/{model}"


def body_of(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """`openapi_extra` for an operation that takes this model as JSON."""
    return _request_body({"$ref": _REF.format(model=model.__name__)}, required=required)


def _request_body(schema: dict[str, Any], *, required: bool) -> dict[str, Any]:
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


_TASK = {"$ref": _REF.format(model="Submission")}
SUBMISSION_BODY = _request_body(
    {"oneOf": [_TASK, {"type": "array", "items": _TASK, "minItems": 1, "maxItems": 1000}]}, required=True
)


def complete(document: dict[str, Any], models: Sequence[type[BaseModel]]) -> dict[str, Any]:
    """Add the schemas that bodies refer to, bearer keys, and the problem that any operation may answer."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for model in models:
        _add(schemas, model.__name__, model.model_json_schema(ref_template=_REF))
    _add(schemas, "Problem", TypeAdapter(Problem).json_schema(ref_template=_REF))
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    problem = {"description": "Refused", "content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = problem
            if path not in ("/v1/health", "/v1/ready"):
                operation["security"] = [{"key": []}]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    return document


def install(api: FastAPI, models: Sequence[type[BaseModel]]) -> None:
    """Make `/openapi.json` complete."""
    plain = api.openapi

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is None:
            api.openapi_schema = complete(plain(), models)
        return api.openapi_schema

    setattr(api, "openapi", openapi)  # noqa: B010 - the framework's documented way; a plain assignment fails strict types


def _add(schemas: dict[str, Any], name: str, schema: dict[str, Any]) -> None:
    schemas.update(schema.pop("$defs", {}))
    schemas[name] = schema
