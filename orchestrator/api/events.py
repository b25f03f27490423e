"""A task's events: as pages of JSON, or live as server-sent events that a client resumes where it was cut off."""

import json
from collections.abc import AsyncIterator
from datetime import UTC
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from contracts.errors import OrchestratorError
from orchestrator.api.feed import Feed
from orchestrator.api.pages import Page, PageQuery, cut
from orchestrator.api.services import Ours, Reader, Services, parse_id
from shared_state import events, views
from shared_state.engine import transaction
from shared_state.events import Event, parse_cursor
from shared_state.shapes import Event as EventShape

router = APIRouter(tags=["tasks"])

HEARTBEAT_SECONDS = 15.0
RETRY_MILLISECONDS = 1000
_STREAM = "text/event-stream"


class EventQuery(PageQuery):
    """`cursor` is that of the last event seen."""


@router.get(
    "/tasks/{task_id}/events",
    response_model=Page[EventShape],
    responses={200: {"content": {_STREAM: {"schema": {"type": "string"}}}}},
)
async def read_events(
    task_id: str,
    request: Request,
    caller: Reader,
    services: Ours,
    query: Annotated[EventQuery, Query()],
    last_event_id: Annotated[str | None, Header(description="where a live stream goes on")] = None,
) -> Any:
    """Oldest first. With `Accept: text/event-stream` live until the task ends; ids are cursors."""
    which = parse_id(task_id, "task")
    after = last_event_id or query.cursor or None
    parse_cursor(after)
    if _STREAM not in request.headers.get("accept", ""):
        return await run_in_threadpool(_page, services, caller.tenant, which, after, query.limit)
    await run_in_threadpool(_require, services, caller.tenant, which)
    stream = _stream(services.feed, caller.tenant, which, after)
    return StreamingResponse(stream, media_type=_STREAM, headers={"X-Accel-Buffering": "no"})


def _page(services: Services, tenant: str, task_id: Any, after: str | None, limit: int) -> Page[EventShape]:
    with transaction(services.engine) as connection:
        views.tasks.require(connection, tenant, task_id)
        found = events.read(connection, tenant, task_id, after, limit + 1)
    return cut([_shape(event) for event in found], limit, lambda event: event["cursor"])


def _require(services: Services, tenant: str, task_id: Any) -> None:
    with transaction(services.engine) as connection:
        views.tasks.require(connection, tenant, task_id)


async def _stream(feed: Feed, tenant: str, task_id: Any, after: str | None) -> AsyncIterator[str]:
    yield f"retry: {RETRY_MILLISECONDS}\n\n"
    try:
        async for event in feed.follow(tenant, task_id, after, HEARTBEAT_SECONDS):
            if event is None:
                yield ": nothing new\n\n"
            else:
                shown = _shape(event)
                yield f"id: {shown['cursor']}\nevent: {shown['type']}\ndata: {json.dumps(shown)}\n\n"
    except OrchestratorError as error:
        # Too late for a status: say it in a comment and end, so that the client resumes after its last event.
        yield f": {error.text.splitlines()[0]}\n\n"


def _shape(event: Event) -> EventShape:
    return {
        "cursor": event.cursor,
        "type": event.type,
        "step_id": str(event.step_id) if event.step_id else None,
        "step_key": event.step_key,
        "epoch": event.epoch,
        "data": event.data,
        "at": event.at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
    }
