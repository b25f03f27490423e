"""What a team's agents take and return, read from their annotations: `python -m workers.describe`.

Runs in a process of its own, so that the service that applies a team never imports its code. On stdin comes
`{"agents": {name: {"call", "gates", "llm"}}, "paths": [folder, ...]}` (`llm` only for agents of that kind: `{"prompt",
"tools", "input", "output"}`, the prompt as its text); on stdout goes one line per agent, in the order given,
`{name: {"input": schema | null, "output": schema | null, "error": text | null}}`. A line that is missing says which
agent's code ended the process. Schemas are closed: objects that list their properties allow no others.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema

from contracts.errors import InvalidInput
from workers.agents.load import NotImportable, import_module, load, load_type
from workers.gates import check_names
from workers.gates.run import BUILT_IN
from workers.gates.schema import close
from workers.isolation.linux import die_with_parent
from workers.llm.prompts import Undefined, check_prompt
from workers.llm.tools import find_tools


class _Wrong(Exception):
    """A mistake in an agent; the message starts with its key."""


def main() -> None:
    die_with_parent()
    given = json.load(sys.stdin)
    # Whatever the agents' modules print must not get between our lines.
    answers = os.dup(1)
    os.dup2(2, 1)
    sys.path[:0] = [path for path in given["paths"] if path not in sys.path]
    with open(answers, "w", encoding="utf-8") as out:
        for name, agent in given["agents"].items():
            out.write(json.dumps({name: describe(agent)}) + "\n")
            out.flush()


def describe(agent: Mapping[str, Any]) -> dict[str, Any]:
    """One agent's schemas, or what is wrong with it."""
    described: dict[str, Any] = {"input": None, "output": None, "error": None}
    try:
        _check_gates(agent.get("gates") or ())
        call = agent.get("call")
        if call is not None:
            loaded = _load(call)
            described["input"] = _schema("input", loaded.input, "validation")
            described["output"] = _schema("output", loaded.output, "serialization")
        if agent.get("llm") is not None:
            described |= _describe_llm(agent["llm"])
    except _Wrong as wrong:
        described["error"] = str(wrong)
    return described


def _describe_llm(told: Mapping[str, Any]) -> dict[str, Any]:
    """No model SDK is imported for this."""
    try:
        check_prompt(told["prompt"])
    except Undefined as error:
        raise _Wrong(f"prompt: {error.text}") from error
    try:
        find_tools(told["tools"])
    except InvalidInput as error:
        raise _Wrong(f"tools: {error.text}") from error
    modes: Mapping[str, Literal["validation", "serialization"]] = {"input": "validation", "output": "serialization"}
    schemas: dict[str, Any] = {}
    for what, mode in modes.items():
        if told[what] is None:
            continue
        try:
            schemas[what] = _schema(what, load_type(told[what]), mode)
        except NotImportable as error:
            raise _Wrong(f"{what}: {error.text}") from error
    return schemas


def _load(call: str) -> Any:
    try:
        return load(call)
    except NotImportable as error:
        raise _Wrong(f"call: {error.text}") from error


def _check_gates(gates: Sequence[str]) -> None:
    unknown = check_names(gates)
    if unknown:
        known = ", ".join(sorted(BUILT_IN))
        raise _Wrong(f"gates: there is no built-in gate {unknown[0]!r}; there are {known}, or write module:function")
    for gate in gates:
        module, colon, function = gate.partition(":")
        if not colon:
            continue
        try:
            found = getattr(import_module(module), function, None)
        except NotImportable as error:
            raise _Wrong(f"gates: {error.text}") from error
        if not callable(found):
            raise _Wrong(f"gates: module {module!r} has no function {function!r}")


def _schema(
    what: str, adapter: TypeAdapter[Any] | None, mode: Literal["validation", "serialization"]
) -> dict[str, Any] | None:
    if adapter is None:
        return None
    try:
        closed: dict[str, Any] = close(adapter.json_schema(mode=mode))
    except PydanticInvalidForJsonSchema as error:
        raise _Wrong(
            f"call: the annotation of its {what} cannot be written as a JSON Schema: {error.message}"
        ) from error
    return closed


if __name__ == "__main__":
    main()
