"""Find an agent's function by `module:function` and read its contract from its annotations."""

import functools
import importlib
import inspect
import operator
import sys
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter

from contracts.errors import OrchestratorError
from contracts.outcomes import Done, Failed, Judged, Planned, Question, Retry, Unable
from contracts.plans import Plan
from contracts.verdicts import Judgement
from workers.agents.source import files_of, hash_files

NOT_OUTPUTS = (Done, Planned, Judged, Retry, Question, Unable, Failed, Plan, Judgement)
"""Types in a return annotation that say how the attempt went, not what the output looks like."""


class NotImportable(OrchestratorError):
    """The agent's code cannot be used here. `detail` is a traceback for operators, or null."""

    code = "agent.not_importable"
    retryable = True

    def __init__(self, text: str, detail: str | None = None) -> None:
        super().__init__(text)
        self.detail = detail


@dataclass(frozen=True)
class Loaded:
    """An agent's function. `input` is null where it takes nothing but the context or does not say what it takes;
    `output` is null where it does not say what it returns. `code_hash` is the SHA-256 of its source."""

    call: str
    function: Callable[..., Any]
    takes_input: bool
    input: TypeAdapter[Any] | None
    output: TypeAdapter[Any] | None
    code_hash: str


def load(call: str) -> Loaded:
    """Import and inspect `module:function`. Raises `NotImportable` whatever goes wrong, an import's exit included."""
    module_name, _, attribute = call.partition(":")
    module = import_module(module_name)
    function = getattr(module, attribute, None)
    if function is None:
        raise NotImportable(f"module {module_name!r} has no {attribute!r}")
    if not callable(function):
        raise NotImportable(f"{call!r} is not a function")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise NotImportable(f"{call!r} is async; an agent is a plain function (call asyncio.run inside it)")
    return _inspect(call, function, hash_files(files_of(module.__spec__)))


def load_type(name: str) -> TypeAdapter[Any]:
    """The type `module:name` as something that can check. Raises `NotImportable`."""
    module_name, _, attribute = name.partition(":")
    found = getattr(import_module(module_name), attribute, None)
    if found is None:
        raise NotImportable(f"module {module_name!r} has no {attribute!r}")
    # pydantic would take a function, and check its arguments.
    adapter = None if inspect.isroutine(found) else _adapt(name, attribute, found)
    if adapter is None:
        raise NotImportable(f"{name!r} is no type that can be checked")
    return adapter


def import_module(name: str) -> types.ModuleType:
    """Import a module for the first time, or again after its source failed. Raises `NotImportable`."""
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except BaseException as error:
        sys.modules.pop(name, None)
        text = f"importing {name!r} failed: {type(error).__name__}"
        if isinstance(error, ImportError | SyntaxError):
            text += f": {error}"
        raise NotImportable(text[:4000], "".join(traceback.format_exception(error))[-20_000:]) from error


def _inspect(call: str, function: Callable[..., Any], code_hash: str) -> Loaded:
    try:
        signature = inspect.signature(function, eval_str=True)
    except (NameError, TypeError, ValueError, SyntaxError, AttributeError) as error:
        raise NotImportable(f"the annotations of {call!r} cannot be read: {error}") from error
    parameters = list(signature.parameters.values())
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    required = [each for each in parameters if each.default is each.empty and each.kind not in _VARIADIC]
    if not positional or len(required) > 2 or any(each.kind is each.KEYWORD_ONLY for each in required):
        raise NotImportable(f"{call!r} must take a context and at most one input: def f(ctx, input)")
    annotation = positional[1].annotation if len(positional) > 1 else inspect.Parameter.empty
    returned = strip_outcomes(signature.return_annotation)
    return Loaded(
        call=call,
        function=function,
        takes_input=len(positional) > 1,
        input=_adapt(call, positional[1].name, annotation) if len(positional) > 1 else None,
        output=_adapt(call, "return", returned),
        code_hash=code_hash,
    )


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def strip_outcomes(annotation: Any) -> Any:
    """The part of a return annotation that describes an output; `inspect.Parameter.empty` where nothing is left."""
    if get_origin(annotation) is Annotated and _is_outcome(get_args(annotation)[0]):
        return inspect.Parameter.empty
    if get_origin(annotation) in (Union, types.UnionType):
        arms = get_args(annotation)
        kept = [arm for arm in arms if not _is_outcome(arm)]
        if len(kept) < len(arms):
            # What is left of `Done | None` says nothing about the output inside Done.
            if not kept or (Done in arms and kept == [types.NoneType]):
                return inspect.Parameter.empty
            return functools.reduce(operator.or_, kept)
        return annotation
    return inspect.Parameter.empty if _is_outcome(annotation) else annotation


def _is_outcome(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, NOT_OUTPUTS)


def _adapt(call: str, name: str, annotation: Any) -> TypeAdapter[Any] | None:
    if annotation is inspect.Parameter.empty or annotation is Any:
        return None
    try:
        return TypeAdapter(annotation)
    except (PydanticSchemaGenerationError, PydanticUserError, TypeError, NameError) as error:
        text = f"the annotation of {name!r} in {call!r} cannot be checked: {type(error).__name__}"
        raise NotImportable(text, str(error)[-20_000:]) from error
