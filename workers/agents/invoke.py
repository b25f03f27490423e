"""Call an agent's function: check its input, run it, and turn whatever happens into an outcome."""

import logging
import re
import traceback
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from contracts.assignments import Assignment
from contracts.context import Artifacts, Context, Progress, StepView
from contracts.errors import Failure, OrchestratorError
from contracts.outcomes import Done, Failed, Judged, Outcome, Planned, Question, Retry, Unable
from contracts.plans import Plan
from contracts.teams import Role
from contracts.verdicts import Judgement
from workers.agents.jsonable import NotStorable, check_storable, clean_text, to_json_value
from workers.agents.load import Loaded

_OWN_CODE = re.compile(r"^agent\.[a-z0-9_.]{1,90}$")


def make_context(
    assignment: Assignment, artifacts: Artifacts, progress: Progress, deadline: float, log: logging.Logger
) -> Context:
    """What the agent gets to use. `deadline` is a Unix time."""
    return Context(
        step=StepView(
            key=assignment.key,
            id=str(assignment.step_id),
            task_id=str(assignment.task_id),
            agent=assignment.agent,
            attempt=assignment.attempt,
        ),
        goal=assignment.goal,
        input=assignment.input,
        artifacts=artifacts,
        progress=progress,
        deadline=deadline,
        inputs=assignment.inputs,
        feedback=assignment.feedback,
        answers=assignment.answers,
        log=log,
    )


def invoke(loaded: Loaded, assignment: Assignment, context: Context) -> Outcome:
    """Run one attempt to its outcome. Never raises: this is the edge where an agent's exceptions end."""
    try:
        arguments = _read_input(loaded, assignment)
    except ValidationError as error:
        return fail("agent.input", describe_invalid(error, _subject(assignment)))
    except Exception as error:
        # Validators of the agent's own model may raise anything.
        return Failed(failure=explain(error))
    try:
        return read_outcome(loaded.function(context, *arguments))
    except BaseException as error:
        return Failed(failure=explain(error))


def read_outcome(returned: Any) -> Outcome:
    """What an agent returned as one of the closed union; its output as plain JSON."""
    try:
        outcome = _to_outcome(returned)
        # Not `mode="json"`: that would turn NaN into null without a word.
        plain = to_json_value(outcome.model_dump())
        check_storable(plain)
    except NotStorable as error:
        return fail("agent.output", str(error))
    return Planned.model_validate(plain) if isinstance(outcome, Planned) else outcome


def explain(error: BaseException) -> Failure:
    """A failure that is safe to show: the exception's class, and its message only where the message is ours.

    An exception that carries a `code` of its own under `agent.` keeps it, and what it says about `retryable`.
    """
    name = type(error).__name__
    if isinstance(error, MemoryError):
        return Failure(code="bound.memory", text="the agent ran out of the memory it may use")
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int | str | None) else 1
        return Failure(code="agent.crashed", text=clean_text(f"the agent called exit({status!r})", 200))
    own = getattr(error, "code", None)
    code = own if isinstance(own, str) and _OWN_CODE.match(own) else "agent.error"
    said = getattr(error, "retryable", None) if code == own else None
    return Failure(
        code=code,
        text=clean_text(f"{name}: {error.text}" if isinstance(error, OrchestratorError) else name, 4000),
        detail=clean_text("".join(traceback.format_exception(error))[-19_000:], 20_000),
        retryable=said if isinstance(said, bool) else None,
    )


def read_typed(adapter: TypeAdapter[Any] | None, assignment: Assignment) -> Failed | None:
    """What is wrong with the step's input, for an agent that only says of which type it is."""
    if adapter is None or assignment.role is Role.REVIEWER:
        return None
    try:
        adapter.validate_json(to_json(assignment.input))
    except ValidationError as error:
        return fail("agent.input", describe_invalid(error, _subject(assignment)))
    except Exception as error:  # validators of the type may raise anything
        return Failed(failure=explain(error))
    return None


def fail(code: str, text: str, detail: str | None = None) -> Failed:
    cleaned = None if detail is None else clean_text(detail[-19_000:], 20_000)
    return Failed(failure=Failure(code=code, text=clean_text(text, 4000), detail=cleaned))


def describe_invalid(error: ValidationError, subject: str) -> str:
    """The first mistakes with their paths, without the values that were wrong."""
    mistakes = error.errors(include_input=False, include_url=False, include_context=False)
    said = [f"{'.'.join((subject, *map(str, each['loc'])))}: {each['msg']}" for each in mistakes[:5]]
    if len(mistakes) > 5:
        said.append(f"and {len(mistakes) - 5} more")
    return "; ".join(said)


def _subject(assignment: Assignment) -> str:
    return "proposal" if assignment.role is Role.REVIEWER else "input"


def _read_input(loaded: Loaded, assignment: Assignment) -> tuple[Any, ...]:
    if not loaded.takes_input:
        return ()
    value = assignment.proposal if assignment.role is Role.REVIEWER else assignment.input
    if loaded.input is None:
        return (value,)
    # As JSON, so that strict models take what JSON cannot say (dates, tuples, UUIDs) from what it can.
    return (loaded.input.validate_json(to_json(value)),)


def _to_outcome(returned: Any) -> Outcome:
    match returned:
        case Done():
            return returned.model_copy(update={"output": to_json_value(returned.output)})
        case Planned() | Judged() | Retry() | Question() | Unable():
            return returned
        case Plan():
            return Planned(plan=returned)
        case Judgement():
            return Judged(judgement=returned)
        case Failed():
            return fail("agent.protocol", "an agent raises to fail; it does not return Failed")
        case _:
            return Done(output=to_json_value(returned))
