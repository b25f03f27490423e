"""Dead letters over HTTP: read, redrive (one, edited, or many), discard."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from contracts.errors import InvalidInput
from contracts.states import DeadLetterState
from orchestrator.api.bodies import parse_model
from orchestrator.api.pages import Page, PageQuery, cut, id_cursor
from orchestrator.api.schemas import body_of
from orchestrator.api.services import Body, Operator, Ours, Reader, Services, parse_id
from orchestrator.auth import Permission, allows
from shared_state import dead_letters, views
from shared_state.engine import transaction
from shared_state.keys import Caller
from shared_state.shapes import DeadLetter, DeadLetterDetail, Redriven

router = APIRouter(tags=["dead letters"])

BULK_LIMIT = 10_000
_CHUNK = 200


class DeadLetterQuery(PageQuery):
    state: DeadLetterState | None = None
    reason: str | None = Field(default=None, max_length=100, description="a code, or the part before its dot")
    team: str | None = Field(default=None, max_length=100)
    task: UUID | None = None


class Redrive(BaseModel):
    """`edit` replaces the step's input."""

    model_config = ConfigDict(extra="forbid")

    edit: dict[str, Any] | None = None


class Discard(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=2000)


class Filter(BaseModel):
    """All that are given must fit. At least one must be given, so that nothing is redriven by accident."""

    model_config = ConfigDict(extra="forbid")

    reason: str | None = Field(default=None, min_length=1, max_length=100)
    team: str | None = Field(default=None, min_length=1, max_length=100)
    ids: list[UUID] | None = Field(default=None, min_length=1, max_length=1000)


class RedriveMany(BaseModel):
    model_config = ConfigDict(extra="forbid")

    filter: Filter


@router.get("/dead-letters", response_model=Page[DeadLetter])
def list_dead_letters(caller: Reader, services: Ours, query: Annotated[DeadLetterQuery, Query()]) -> Any:
    """Newest first."""
    with transaction(services.engine) as connection:
        rows = views.dead_letters.page(
            connection,
            caller.tenant,
            limit=query.limit + 1,
            before=id_cursor(query.cursor),
            state=query.state,
            reason=query.reason,
            team=query.team,
            task_id=query.task,
        )
    return cut(rows, query.limit, lambda row: row["id"])


@router.post("/dead-letters/redrive", response_model=Redriven, openapi_extra=body_of(RedriveMany))
def redrive_many(caller: Operator, body: Body, services: Ours) -> Any:
    """Put back every open one that fits the filter (up to 10,000; the answer names them)."""
    wanted = parse_model(body, RedriveMany).filter
    if wanted == Filter():
        raise InvalidInput("filter: name a reason, a team or ids; an empty filter redrives nothing", field="filter")
    with transaction(services.engine) as connection:
        ids = views.dead_letters.redrivable(
            connection, caller.tenant, limit=BULK_LIMIT, reason=wanted.reason, team=wanted.team, ids=wanted.ids
        )
    redriven: list[str] = []
    for start in range(0, len(ids), _CHUNK):
        redriven += _redrive(services, caller, ids[start : start + _CHUNK], None)["redriven"]
    done = set(redriven)
    return {"redriven": redriven, "unchanged": [str(each) for each in wanted.ids or ids if str(each) not in done]}


@router.get("/dead-letters/{letter_id}", response_model=DeadLetterDetail)
def read_dead_letter(letter_id: str, caller: Reader, services: Ours) -> Any:
    """With the raw bytes (base64) of what could not be read, for those who may operate."""
    detailed = allows(caller, Permission.OPERATE)
    with transaction(services.engine) as connection:
        return views.dead_letters.read(connection, caller.tenant, parse_id(letter_id, "dead letter"), detailed=detailed)


@router.post("/dead-letters/{letter_id}/redrive", response_model=Redriven, openapi_extra=body_of(Redrive))
def redrive(letter_id: str, caller: Operator, body: Body, services: Ours) -> Any:
    """Put its step back, with its input edited if `edit` is given. A second click changes nothing."""
    edit = parse_model(body, Redrive).edit
    return _redrive(services, caller, [parse_id(letter_id, "dead letter")], edit)


@router.post("/dead-letters/{letter_id}/discard", response_model=DeadLetterDetail, openapi_extra=body_of(Discard))
def discard(letter_id: str, caller: Operator, body: Body, services: Ours) -> Any:
    """Close it for good, with a reason; its step is failed."""
    which = parse_id(letter_id, "dead letter")
    reason = parse_model(body, Discard).reason
    dead_letters.discard(services.engine, caller.tenant, which, reason, caller.name)
    with transaction(services.engine) as connection:
        return views.dead_letters.read(connection, caller.tenant, which, detailed=True)


def _redrive(services: Services, caller: Caller, ids: list[UUID], edit: dict[str, Any] | None) -> Redriven:
    done = dead_letters.redrive(services.engine, caller.tenant, ids, caller.name, edit=edit)
    services.wakeups.send(done.wakeups)
    return {"redriven": [str(each) for each in done.redriven], "unchanged": [str(each) for each in done.unchanged]}
