"""How a model ends its work: it calls one of a few tools that are ends, or, where no form is asked for, says a text."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
from pydantic_ai.tools import ToolDefinition
from pydantic_core import to_json

from contracts.outcomes import Done, Judged, Outcome, Planned, Question, Unable
from contracts.plans import Plan
from contracts.teams import Role
from contracts.verdicts import Judgement
from workers.agents.invoke import describe_invalid, read_outcome

ANSWER, PLAN, JUDGE, ASK, UNABLE = "answer", "plan", "judge", "ask", "unable"
_VALUE = "value"
"""The one argument of `answer` where the output is no object."""

_ENDS: Mapping[Role, tuple[str, type[Any], str]] = {
    Role.PLANNER: (PLAN, Plan, "Hand in the plan. This ends your work."),
    Role.REVIEWER: (JUDGE, Judgement, "Hand in your judgement. This ends your work."),
}
_ASK = ToolDefinition(
    name=ASK,
    description="Ask a person what you must know to go on and cannot find out. You go on when it is answered.",
    parameters_json_schema={
        "type": "object",
        "properties": {"text": {"type": "string", "minLength": 1, "maxLength": 10_000}},
        "required": ["text"],
        "additionalProperties": False,
    },
)
_UNABLE = ToolDefinition(
    name=UNABLE,
    description="Say that this cannot be done, or not safely, and why. An honest end; never invent an answer instead.",
    parameters_json_schema={
        "type": "object",
        "properties": {"reason": {"type": "string", "minLength": 1, "maxLength": 2000}},
        "required": ["reason"],
        "additionalProperties": False,
    },
)


@dataclass(frozen=True)
class Unusable:
    """An answer that has not the asked form: `words` tell the model what is wrong."""

    words: str


class Outputs:
    """The ways to end that one agent has."""

    def __init__(self, role: Role, adapter: TypeAdapter[Any] | None) -> None:
        """`adapter` checks an executor's output; null where that is text."""
        self._role = role
        self._adapter = adapter
        self.text_ends = role is Role.EXECUTOR and adapter is None
        self.wrapped = False
        self.definitions: list[ToolDefinition] = []
        if role is not Role.EXECUTOR:
            self._name, kind, description = _ENDS[role]
            self._adapter = TypeAdapter(kind)
            self.definitions.append(self._definition(description))
        elif adapter is not None:
            self._name = ANSWER
            self.definitions.append(self._definition("Hand in the output. This ends your work."))
        self.definitions += [_UNABLE] if role is Role.REVIEWER else [_ASK, _UNABLE]
        self.names = frozenset(each.name for each in self.definitions)

    def ends(self, response: ModelResponse) -> bool:
        """Whether it is meant as an end, usable or not."""
        return any(call.tool_name in self.names for call in calls_of(response)) or not calls_of(response)

    def read(self, response: ModelResponse) -> Outcome | Unusable:
        """What an answer that `ends` says; the first end counts, and what was called beside it is not done."""
        ending = next((call for call in calls_of(response) if call.tool_name in self.names), None)
        if ending is None:
            text = text_of(response)
            return read_outcome(text) if self.text_ends else self._parse(text)
        try:
            arguments = ending.args_as_dict(raise_if_invalid=True)
        except (ValueError, AssertionError):
            return Unusable(f"The arguments of {ending.tool_name} are no JSON object. Call it again.")
        if ending.tool_name not in (ASK, UNABLE):
            return self._parse(to_json(arguments.get(_VALUE) if self.wrapped else arguments).decode())
        try:
            if ending.tool_name == ASK:
                return Question.model_validate(arguments)
            return Unable.model_validate(arguments)
        except ValidationError as error:
            return Unusable(_words(error, ending.tool_name))

    def _definition(self, description: str) -> ToolDefinition:
        schema = self._adapter.json_schema() if self._adapter else {}
        self.wrapped = schema.get("type") != "object" and "$ref" not in schema
        if self.wrapped:
            definitions = schema.pop("$defs", None)
            schema = {
                "type": "object",
                "properties": {_VALUE: schema},
                "required": [_VALUE],
                "additionalProperties": False,
            }
            if definitions:
                schema["$defs"] = definitions
        return ToolDefinition(name=self._name, description=description, parameters_json_schema=schema)

    def _parse(self, text: str) -> Outcome | Unusable:
        if self._adapter is None:
            return Unusable("Your answer has no form that was asked for.")
        try:
            value = self._adapter.validate_json(text)
        except ValidationError as error:
            return Unusable(_words(error, self._name))
        if self._role is Role.PLANNER:
            return Planned(plan=value)
        if self._role is Role.REVIEWER:
            return Judged(judgement=value)
        return read_outcome(Done(output=value))


def calls_of(response: ModelResponse) -> list[ToolCallPart]:
    return [part for part in response.parts if isinstance(part, ToolCallPart)]


def text_of(response: ModelResponse) -> str:
    return "".join(part.content for part in response.parts if isinstance(part, TextPart))


def request_of(call: ToolCallPart) -> str:
    """A request for a tool, such that equal ones are equal texts."""
    try:
        arguments = call.args_as_dict(raise_if_invalid=True)
    except (ValueError, AssertionError):
        return f"{call.tool_name} {call.args}"
    return f"{call.tool_name} {json.dumps(arguments, sort_keys=True)}"


def _words(error: ValidationError, name: str) -> str:
    return f"It does not fit: {describe_invalid(error, name)}. Nothing was taken; hand it in again, whole."
