"""One call of a tool by a model. Whatever a model asks for is answered, never raised."""

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from contracts.errors import NotFound, Unavailable
from workers.llm.tools.answers import Refusal, ToolCode
from workers.llm.tools.tool import Arguments, Desk, Tool


@dataclass(frozen=True)
class Called:
    """`text` is for the model. `code` is null where the tool succeeded; `detail` is for the attempt's record only."""

    text: str
    code: ToolCode | None = None
    detail: str | None = None


def call(tool: Tool, desk: Desk, arguments: str | Mapping[str, Any]) -> Called:
    """Run one call of a model, with its arguments as JSON text or as a mapping. Never raises."""
    try:
        checked = _check(tool, arguments)
    except ValidationError as error:
        return refuse(ToolCode.ARGUMENTS, _describe(tool, error), retryable=True)
    try:
        answer = tool.run(desk, checked)
    except NotFound as error:
        return refuse(ToolCode.NOT_FOUND, error.text, retryable=True)
    except Unavailable as error:
        return refuse(ToolCode.UNAVAILABLE, error.text, retryable=True)
    except Exception as error:  # the edge of a tool: its defect is an answer, and nothing of it reaches the model
        detail = "".join(traceback.format_exception(error))
        return refuse(ToolCode.ERROR, f"{tool.name} failed; go on without it", detail=detail)
    if isinstance(answer, Refusal):
        return Called(answer.text(), answer.code)
    if not answer.fits():
        return refuse(ToolCode.TOO_LARGE, f"the answer of {tool.name} is too large; ask for less")
    return Called(answer.text())


def refuse(code: ToolCode, text: str, *, retryable: bool = False, detail: str | None = None) -> Called:
    return Called(Refusal(code, text, retryable).text(), code, detail)


def _check(tool: Tool, arguments: str | Mapping[str, Any]) -> Arguments:
    if isinstance(arguments, str):
        return tool.arguments.model_validate_json(arguments or "{}")
    return tool.arguments.model_validate(arguments)


def _describe(tool: Tool, error: ValidationError) -> str:
    mistakes = error.errors(include_input=False, include_url=False, include_context=False)[:5]
    said = [": ".join(filter(None, (".".join(map(str, each["loc"])), each["msg"]))) for each in mistakes]
    return f"the arguments do not fit: {'; '.join(said)}. {tool.name} takes: {', '.join(tool.arguments.model_fields)}"
