"""Dead letters over HTTP: list, count, read, edit, redrive (one, or many at a rate), discard, note, export."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from contracts.errors import CODES, InvalidInput
from contracts.states import DeadLetterState
from orchestrator.api.bodies import parse_model
from orchestrator.api.pages import Page, PageQuery, cut, id_cursor
from orchestrator.api.schemas import body_of
from orchestrator.api.services import Body, Operator, Ours, Reader, ReaderOnly, Services, parse_id
from orchestrator.auth import Permission, allows
from shared_state import dead_letters, dead_messages, views
from shared_state.dead_messages import Rewritten
from shared_state.engine import transaction
from shared_state.keys import Caller
from shared_state.shapes import DeadLetter, DeadLetterCount, DeadLetterDetail, ReasonCode, Redriven
from shared_state.views.dead_letters import Wanted

router = APIRouter(tags=["dead letters"])

BULK_LIMIT = 10_000
_EXPORT_PAGE = 50
_LINES = "application/x-ndjson"

Text = Annotated[str, Field(min_length=1, max_length=200)]
Moment = Annotated[
    AwareDatetime,
    Field(ge=datetime(1970, 1, 2, tzinfo=UTC), lt=datetime(9000, 1, 1, tzinfo=UTC)),
    # Postgres knows no offsets of sixteen hours and more, which RFC 3339 allows.
    AfterValidator(lambda moment: moment.astimezone(UTC)),
]


class _Fits(BaseModel):
    """All that are given must fit."""

    model_config = ConfigDict(extra="forbid")

    reason: Text | None = Field(default=None, description="a code, or the part before its dot")
    team: Text | None = None
    agent: Text | None = None
    queue: Text | None = None
    task: UUID | None = None
    since: Moment | None = Field(default=None, description="given up on at this moment or later (RFC 3339)")
    until: Moment | None = Field(default=None, description="given up on before this moment")
    text: Text | None = Field(default=None, description="a part of its text, in any case")

    def wanted(self, state: str | None) -> Wanted:
        return Wanted(state=state, **{name: getattr(self, name) for name in _Fits.model_fields})


class StateQuery(_Fits):
    state: DeadLetterState | None = None


class DeadLetterQuery(PageQuery, StateQuery):
    pass


class Filter(_Fits):
    """At least one must be given, so that nothing is redriven by accident."""

    ids: list[UUID] | None = Field(default=None, min_length=1, max_length=1000)


class Redrive(BaseModel):
    """`edit` replaces the step's input; `message` is what undecodable bytes should have been."""

    model_config = ConfigDict(extra="forbid")

    edit: dict[str, Any] | None = None
    message: Rewritten | None = None
    dry_run: bool = Field(default=False, strict=True)


class RedriveMany(BaseModel):
    """`per_second` spaces the steps: each gets a time of its own, and nobody has to wait for them."""

    model_config = ConfigDict(extra="forbid")

    filter: Filter
    dry_run: bool = Field(default=False, strict=True)
    per_second: float | None = Field(default=None, ge=0.01, le=10_000)


class EditInput(BaseModel):
    model_config = ConfigDict(extra="forbid")

    input: dict[str, Any]


class Discard(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=2000)


class NewNote(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str = Field(min_length=1, max_length=10_000)


BODIES: list[type[BaseModel]] = [Redrive, RedriveMany, EditInput, Discard, NewNote]


@router.get("/dead-letters", response_model=Page[DeadLetter])
def list_dead_letters(caller: Reader, services: Ours, query: Annotated[DeadLetterQuery, Query()]) -> Any:
    """Newest first."""
    before = id_cursor(query.cursor)
    with transaction(services.engine) as connection:
        wanted = query.wanted(query.state)
        rows = views.dead_letters.page(connection, caller.tenant, wanted, limit=query.limit + 1, before=before)
    return cut(rows, query.limit, lambda row: row["id"])


@router.get("/dead-letters/counts", response_model=Page[DeadLetterCount])
def count_dead_letters(caller: Reader, services: Ours, query: Annotated[StateQuery, Query()]) -> Any:
    """How many there are by reason, the most frequent first, with what the reason means and what to do."""
    with transaction(services.engine) as connection:
        found = views.dead_letters.counts(connection, caller.tenant, query.wanted(query.state))
    return {"items": found, "next_cursor": None}


@router.get("/dead-letters/codes", response_model=Page[ReasonCode], dependencies=[ReaderOnly])
def list_codes() -> Any:
    """Every reason there is, with its meaning and remedy. Agents may add codes of their own under `agent.`."""
    items = [
        {"code": name, "retryable": code.retryable, "meaning": code.meaning, "remedy": code.remedy}
        for name, code in sorted(CODES.items())
    ]
    return {"items": items, "next_cursor": None}


@router.get(
    "/dead-letters/export",
    response_class=StreamingResponse,
    responses={200: {"content": {_LINES: {"schema": {"type": "string"}}}}},
)
def export_dead_letters(caller: Reader, services: Ours, query: Annotated[StateQuery, Query()]) -> StreamingResponse:
    """All that fit with their whole story, newest first, as JSON lines."""
    pages = _export(services, caller, query.wanted(query.state))
    # The first page is read before the answer begins, so that what fails at once is told by its status.
    return StreamingResponse(chain([next(pages)], pages), media_type=_LINES)


@router.post("/dead-letters/redrive", response_model=Redriven, openapi_extra=body_of(RedriveMany))
def redrive_many(caller: Operator, body: Body, services: Ours) -> Any:
    """Put back every open one that fits the filter (up to 10,000, the oldest first; the answer names them)."""
    asked = parse_model(body, RedriveMany)
    services.vitals.require_room()
    if asked.filter == Filter():
        raise InvalidInput("filter: name a reason, a team, ids, ...; an empty one redrives nothing", field="filter")
    done = dead_letters.redrive_many(
        services.engine,
        caller.tenant,
        _chosen(services, caller, asked.filter),
        caller.name,
        per_second=asked.per_second,
        dry_run=asked.dry_run,
    )
    services.wakeups.send(done.wakeups)
    return _redriven(done, asked.dry_run, len(done.redriven) / asked.per_second if asked.per_second else 0.0)


@router.get("/dead-letters/{letter_id}", response_model=DeadLetterDetail)
def read_dead_letter(letter_id: str, caller: Reader, services: Ours) -> Any:
    """Everything about it; raw bytes (base64), error details and logs for those who may operate."""
    return _read(services, caller, parse_id(letter_id, "dead letter"))


@router.post("/dead-letters/{letter_id}/edit", response_model=DeadLetterDetail, openapi_extra=body_of(EditInput))
def edit_input(letter_id: str, caller: Operator, body: Body, services: Ours) -> Any:
    """Give its step another input, checked by the agent's schema; what it was stays in `edits`. Redrive it then."""
    which = parse_id(letter_id, "dead letter")
    dead_letters.edit(services.engine, caller.tenant, which, parse_model(body, EditInput).input, caller.name)
    return _read(services, caller, which)


@router.post("/dead-letters/{letter_id}/redrive", response_model=Redriven, openapi_extra=body_of(Redrive))
def redrive(letter_id: str, caller: Operator, body: Body, services: Ours) -> Any:
    """Put its step back, with its input edited if `edit` is given. A second click changes nothing.

    For bytes that were no message `message` says what they should have been: it names steps that wait for a worker,
    and a message of our own goes out for them.
    """
    which = parse_id(letter_id, "dead letter")
    asked = parse_model(body, Redrive)
    services.vitals.require_room()
    if asked.message is not None:
        if asked.edit is not None:
            raise InvalidInput("edit: goes with a step, message with bytes; send one of them", field="edit")
        done = dead_messages.redrive_message(
            services.engine, caller.tenant, which, asked.message, caller.name, dry_run=asked.dry_run
        )
    else:
        done = dead_letters.redrive(
            services.engine, caller.tenant, [which], caller.name, edit=asked.edit, dry_run=asked.dry_run
        )
    services.wakeups.send(done.wakeups)
    return _redriven(done, asked.dry_run, 0.0)


@router.post("/dead-letters/{letter_id}/discard", response_model=DeadLetterDetail, openapi_extra=body_of(Discard))
def discard(letter_id: str, caller: Operator, body: Body, services: Ours) -> Any:
    """Close it for good, with a reason; its step is failed."""
    which = parse_id(letter_id, "dead letter")
    dead_letters.discard(services.engine, caller.tenant, which, parse_model(body, Discard).reason, caller.name)
    return _read(services, caller, which)


@router.post("/dead-letters/{letter_id}/notes", response_model=DeadLetterDetail, openapi_extra=body_of(NewNote))
def add_note(letter_id: str, caller: Operator, body: Body, services: Ours) -> Any:
    """Add a note, with who wrote it and when; notes are never changed."""
    which = parse_id(letter_id, "dead letter")
    dead_letters.note(services.engine, caller.tenant, which, parse_model(body, NewNote).text, caller.name)
    return _read(services, caller, which)


def _read(services: Services, caller: Caller, letter_id: UUID) -> DeadLetterDetail:
    detailed = allows(caller, Permission.OPERATE)
    with transaction(services.engine) as connection:
        return views.dead_letters.read(connection, caller.tenant, letter_id, detailed=detailed)


def _chosen(services: Services, caller: Caller, asked: Filter) -> list[UUID]:
    """The ids given, or those of open ones that fit; with both, the ids given as far as they fit."""
    if asked.ids is not None and asked == Filter(ids=asked.ids):
        return asked.ids
    wanted = asked.wanted(DeadLetterState.OPEN)
    with transaction(services.engine) as connection:
        return views.dead_letters.ids(connection, caller.tenant, wanted, among=asked.ids, limit=BULK_LIMIT)


def _redriven(done: dead_letters.Redriven, dry_run: bool, seconds: float) -> Redriven:
    return {
        "redriven": [str(each) for each in done.redriven],
        "unchanged": [str(each) for each in done.unchanged],
        "refused": [{"id": str(each), "code": why.code, "text": why.text} for each, why in done.refused.items()],
        "dry_run": dry_run,
        "seconds": seconds,
    }


def _export(services: Services, caller: Caller, wanted: Wanted) -> Iterator[bytes]:
    """Page by page, each in a transaction of its own: a slow reader must not hold one open."""
    detailed = allows(caller, Permission.OPERATE)
    before: UUID | None = None
    while True:
        with transaction(services.engine) as connection:
            page = list(
                views.dead_letters.export(
                    connection, caller.tenant, wanted, limit=_EXPORT_PAGE, before=before, detailed=detailed
                )
            )
        yield b"".join(json.dumps(letter, ensure_ascii=False).encode() + b"\n" for letter in page)
        if len(page) < _EXPORT_PAGE:
            return
        before = UUID(page[-1]["id"])
