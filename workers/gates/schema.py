"""The schema gate: an output is JSON that can be stored, is not too large or too deep, and has the declared shape."""

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jsonschema_rs import Draft202012Validator, ValidationError
from pydantic_core import to_json

from contracts.same import Same
from contracts.verdicts import Reason
from workers.gates.subject import Subject, pointer

DEPTH_LIMIT = 100
REASONS_LIMIT = 20


def check_schema(subject: Subject) -> list[Reason]:
    """Everything that keeps the output from being stored or read by its contract; cheap checks first.

    Raises what `jsonschema_rs` raises for a schema that is wrong itself, remote references included: then the gate
    cannot decide.
    """
    reasons = _check_values(subject.output)
    if not reasons:
        reasons = _check_size(subject)
    if not reasons and subject.output_schema is not None:
        reasons = _check_shape(subject.output, subject.output_schema)
    return reasons


def close(schema: Any) -> Any:
    """The same schema with every object that lists its properties refusing all others, unless it says otherwise."""
    if not isinstance(schema, Mapping):
        return schema
    closed = dict(schema)
    for key, value in schema.items():
        if key in _SCHEMAS_BY_NAME and isinstance(value, Mapping):
            closed[key] = {name: close(each) for name, each in value.items()}
        elif key in _SCHEMA_LISTS and isinstance(value, list):
            closed[key] = [close(each) for each in value]
        elif key in _SCHEMAS:
            closed[key] = close(value)
    # Beside `$ref` or `allOf` the properties are only some of those allowed.
    whole = "properties" in schema and "$ref" not in schema and "allOf" not in schema
    if whole and "additionalProperties" not in schema and "unevaluatedProperties" not in schema:
        closed["additionalProperties"] = False
    return closed


_SCHEMAS_BY_NAME = frozenset({"$defs", "definitions", "properties", "patternProperties", "dependentSchemas"})
_SCHEMA_LISTS = frozenset({"anyOf", "oneOf", "prefixItems"})
_SCHEMAS = frozenset({"additionalProperties", "items", "contains", "not", "if", "then", "else"})


def _check_values(output: Any) -> list[Reason]:
    """What JSON or Postgres could not hold. A loop, not a recursion: depth is one of the things checked."""
    waiting: list[tuple[Any, tuple[str | int, ...]]] = [(output, ())]
    while waiting:
        value, path = waiting.pop()
        if isinstance(value, dict | list | tuple) and len(path) >= DEPTH_LIMIT:
            text = f"nested deeper than {DEPTH_LIMIT} levels"
            return [Reason(code="schema.too_deep", where=pointer(*path), text=text, expected="a flatter output")]
        if isinstance(value, dict):
            for key, item in value.items():
                wrong = _wrong_text(key) if isinstance(key, str) else f"an object's key is a {type(key).__name__}"
                if wrong:
                    return [Reason(code="schema.not_json", where=pointer(*path), text=wrong, expected="a text key")]
                waiting.append((item, (*path, key)))
        elif isinstance(value, list | tuple):
            waiting.extend((item, (*path, index)) for index, item in enumerate(value))
        else:
            wrong = _wrong_scalar(value)
            if wrong:
                return [Reason(code="schema.not_json", where=pointer(*path), text=wrong, expected="a JSON value")]
    return []


def _wrong_scalar(value: Any) -> str | None:
    if isinstance(value, str):
        return _wrong_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "a number that is not finite"
    # Python refuses to write or read longer integers as text (sys.int_info.default_max_str_digits).
    if isinstance(value, int) and value.bit_length() > 14_000:
        return "an integer of more than 4000 digits"
    if value is None or isinstance(value, str | int | float):
        return None
    return f"a {type(value).__name__} is not a JSON value"


def _wrong_text(text: str) -> str | None:
    if "\0" in text:
        return "the text holds a NUL character, which Postgres cannot store"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "the text holds half of a surrogate pair, which is not Unicode text"
    return None


def _check_size(subject: Subject) -> list[Reason]:
    size = len(to_json(subject.output))
    if size <= subject.output_bytes_limit:
        return []
    return [
        Reason(
            code="schema.too_large",
            text=f"the output has {size} bytes as JSON; put large data into artifacts and return their references",
            expected=f"at most {subject.output_bytes_limit} bytes",
        )
    ]


@lru_cache(maxsize=512)
def _validator(schema: Same[Mapping[str, Any]]) -> Draft202012Validator:
    return Draft202012Validator(close(schema.value), offline=True, mask="this value")


def _check_shape(output: Any, schema: Mapping[str, Any]) -> list[Reason]:
    # `offline`: a $ref to another document is an error, never a request. `mask`: the output's own words stay out of
    # the reasons, which are shown to people and models.
    validator = _validator(Same(schema))
    reasons = []
    for error in validator.iter_errors(output):
        reasons.append(_reason(error))
        if len(reasons) == REASONS_LIMIT:
            break
    return reasons


def _reason(error: ValidationError) -> Reason:
    keyword = error.kind.name
    expected = f"{keyword}: {_short(error.kind.value)}" if keyword in _SAYS_WHAT_IT_WANTS else None
    return Reason(
        code=f"schema.{keyword}"[:100],
        where=pointer(*error.instance_path),
        text=error.message[:500],
        expected=expected,
    )


_SAYS_WHAT_IT_WANTS = frozenset(
    {"type", "enum", "const", "required", "pattern", "format", "minimum", "maximum", "minLength", "maxLength"}
    | {"exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems", "multipleOf"}
)


def _short(value: Any) -> str:
    return json.dumps(value, default=str)[:400]
