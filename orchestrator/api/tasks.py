"""Tasks over HTTP: submit, look, watch, get the result, cancel, fork."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field, ValidationError

from contracts.errors import InvalidInput, OrchestratorError
from contracts.states import StepState, TaskState
from orchestrator.api import bodies
from orchestrator.api.limits import Limits
from orchestrator.api.pages import Page, PageQuery, cut, id_cursor, make_rank_cursor, rank_cursor
from orchestrator.api.problems import at, invalid_fields, problem_of
from orchestrator.api.schemas import SUBMISSION_BODY, body_of
from orchestrator.api.services import Body, Operator, Ours, Reader, Services, parse_id
from orchestrator.refusals import Malformed
from shared_state import forks, tasks, views
from shared_state.crash_points import crash_point
from shared_state.engine import transaction
from shared_state.forks import Forking
from shared_state.keys import Caller
from shared_state.shapes import Created, Refused, Result, Step, Task, TaskDetail
from shared_state.tasks import Submission

router = APIRouter(tags=["tasks"])

LIST_LIMIT = 1000
_NOT_YET = {"budget": "this version enforces no budgets, so it refuses one rather than ignore it; leave it out"}


class TaskQuery(PageQuery):
    state: list[TaskState] = Field(default_factory=list)
    team: str | None = Field(default=None, max_length=100)
    label: str | None = Field(default=None, max_length=301, description="name=value")


class StepQuery(PageQuery):
    state: list[StepState] = Field(default_factory=list)


@router.post(
    "/tasks",
    status_code=201,
    response_model=Task,
    openapi_extra=SUBMISSION_BODY,
    responses={200: {"model": Page[Created | Refused]}},
)
def submit(
    caller: Operator,
    body: Body,
    services: Ours,
    response: Response,
    request: Request,
    idempotency_key: Annotated[str | None, Header(description="1 to 255 visible ASCII characters")] = None,
    traceparent: Annotated[str | None, Header()] = None,
) -> Any:
    """Submit one task (an object), or up to 1,000 (a list: answered 200, with an id or a problem for each)."""
    _once(request)
    value = bodies.parse(body)
    trace = _trace(traceparent)
    if isinstance(value, list):
        if idempotency_key is not None:
            raise InvalidInput("with a list, give each item its own idempotency_key", field="idempotency_key")
        return JSONResponse(_submit_list(services, caller, value, body.limits, trace), 200)
    bodies.check_form(value, body.limits)
    submission = _submission(value, body.limits, idempotency_key)
    services.vitals.admit(services.engine, caller.tenant, 1)
    created = services.submitter.submit(services.engine, caller.tenant, submission, traceparent=trace)
    crash_point("C02")
    return _made(services, caller, created, response)


@router.get("/tasks", response_model=Page[Task])
def list_tasks(caller: Reader, services: Ours, query: Annotated[TaskQuery, Query()]) -> Any:
    """Newest first. `state` may be given several times; `label` is `name=value`."""
    with transaction(services.engine) as connection:
        rows = views.tasks.page(
            connection,
            caller.tenant,
            limit=query.limit + 1,
            before=id_cursor(query.cursor),
            states=query.state,
            team=query.team,
            label=_label(query.label),
        )
    return cut(rows, query.limit, lambda row: row["id"])


@router.get("/tasks/{task_id}", response_model=TaskDetail)
def read_task(task_id: str, caller: Reader, services: Ours) -> Any:
    with transaction(services.engine) as connection:
        return views.tasks.read(connection, caller.tenant, parse_id(task_id, "task"))


@router.get("/tasks/{task_id}/steps", response_model=Page[Step])
def list_steps(task_id: str, caller: Reader, services: Ours, query: Annotated[StepQuery, Query()]) -> Any:
    """Parents before children."""
    with transaction(services.engine) as connection:
        rows = views.steps.page(
            connection,
            caller.tenant,
            parse_id(task_id, "task"),
            limit=query.limit + 1,
            after=rank_cursor(query.cursor),
            states=query.state,
        )
    return cut(rows, query.limit, lambda row: make_rank_cursor(row["rank"], row["key"]))


@router.get("/tasks/{task_id}/result", response_model=Result)
def read_result(task_id: str, caller: Reader, services: Ours) -> Any:
    """The accepted outputs of the steps nobody needs; 409 until the task has ended."""
    with transaction(services.engine) as connection:
        return views.results.read(connection, caller.tenant, parse_id(task_id, "task"))


@router.post("/tasks/{task_id}/cancel", response_model=TaskDetail)
def cancel(task_id: str, caller: Operator, services: Ours) -> Any:
    """Nothing of the task is committed after this; cancelling twice is fine."""
    which = parse_id(task_id, "task")
    tasks.cancel(services.engine, caller.tenant, which, caller.name)
    with transaction(services.engine) as connection:
        return views.tasks.read(connection, caller.tenant, which)


@router.post("/tasks/{task_id}/fork", status_code=201, response_model=TaskDetail, openapi_extra=body_of(Forking))
def fork(
    task_id: str,
    caller: Operator,
    body: Body,
    services: Ours,
    response: Response,
    request: Request,
    idempotency_key: Annotated[str | None, Header(description="1 to 255 visible ASCII characters")] = None,
    traceparent: Annotated[str | None, Header()] = None,
) -> Any:
    """A new task with what this one has accepted so far; the step `from`, and what follows from it, is done again.

    `edit` replaces that step's input. The task forked from may be in any state, and is left as it is.
    """
    _once(request)
    which = parse_id(task_id, "task")
    value = bodies.parse(body)
    bodies.check_form(value, body.limits)
    forking = bodies.validate(_keyed(value, idempotency_key), Forking)
    services.vitals.admit(services.engine, caller.tenant, 1)
    forked = forks.fork(
        services.engine, caller.tenant, which, forking, caller.name, traceparent=_trace(traceparent)
    )  # fmt: skip
    services.wakeups.send(forked.wakeups)
    return _made(services, caller, forked.created, response)


def _submit_list(
    services: Services, caller: Caller, values: list[Any], limits: Limits, trace: str | None
) -> Page[Created | Refused]:
    """Every item stands for itself: a bad one gets its problem and stops none of the others."""
    if not 1 <= len(values) <= LIST_LIMIT:
        raise InvalidInput(f"a list holds 1 to {LIST_LIMIT} tasks, not {len(values)}; send several lists")
    checked = [_checked(value, limits, str(index)) for index, value in enumerate(values)]
    good = [each for each in checked if isinstance(each, Submission)]
    services.vitals.admit(services.engine, caller.tenant, len(good))
    submitted = tasks.submit(
        services.engine, caller.tenant, good, traceparents=[trace] * len(good), teams=services.teams
    )
    services.wakeups.send(submitted.wakeups)
    results = iter(submitted.results)
    items: list[Created | Refused] = []
    for index, each in enumerate(checked):
        result = next(results) if isinstance(each, Submission) else each
        if isinstance(result, OrchestratorError):
            items.append({"problem": problem_of(result if result is each else at(result, str(index)))})
        else:
            items.append({"id": str(result.task_id), "replayed": result.replayed})
    return {"items": items, "next_cursor": None}


def _made(services: Services, caller: Caller, created: tasks.Created, response: Response) -> TaskDetail:
    response.headers["Location"] = f"/v1/tasks/{created.task_id}"
    if created.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    with transaction(services.engine) as connection:
        return views.tasks.read(connection, caller.tenant, created.task_id)


def _once(request: Request) -> None:
    if len(request.headers.getlist("idempotency-key")) > 1:
        raise Malformed("the Idempotency-Key header is there more than once; send it once")


def _checked(value: Any, limits: Limits, where: str) -> Submission | OrchestratorError:
    try:
        bodies.check_form(value, limits, where)
    except OrchestratorError as error:
        return error
    try:
        return _submission(value, limits, None)
    except OrchestratorError as error:
        return at(error, where)


def _submission(value: Any, limits: Limits, key: str | None) -> Submission:
    if not isinstance(value, dict):
        raise InvalidInput("a task is a JSON object; see /openapi.json")
    limits.check_plan(value)
    for field, text in _NOT_YET.items():
        if field in value:
            raise InvalidInput(f"{field}: {text}", field=field)
    try:
        return Submission.model_validate(_keyed(value, key))
    except ValidationError as error:
        raise invalid_fields(error) from None


def _keyed(value: Any, key: str | None) -> Any:
    """The body with the key of the header, if there is one. Raises `InvalidInput` where the body has another."""
    if key is None or not isinstance(value, dict):
        return value
    if value.get("idempotency_key", key) != key:
        text = "the Idempotency-Key header and the field idempotency_key differ; send one of them"
        raise InvalidInput(text, field="idempotency_key")
    return {**value, "idempotency_key": key}


def _label(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InvalidInput("label: write it as name=value", field="label")
    return name, value


def _trace(header: str | None) -> str | None:
    """A W3C traceparent, or None for anything else: a bad trace header must not stop a task."""
    if header is None or len(header) != 55:
        return None
    parts = header.split("-")
    wanted = (2, 32, 16, 2)
    hexadecimal = all(set(part) <= set("0123456789abcdef") for part in parts)
    return header if hexadecimal and tuple(map(len, parts)) == wanted and parts[0] != "ff" else None
