"""The installation over HTTP: workers, queues, teams, and whether it lives and is ready."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from contracts.errors import Misconfigured, Unavailable
from contracts.topology import QUEUE_OF_ROLE
from orchestrator.api.pages import Page, PageQuery, cut
from orchestrator.api.services import Everyones, Ours, Reader, ReaderOnly
from shared_state import migrate, views
from shared_state.engine import transaction
from shared_state.metrics import CONTENT_TYPE
from shared_state.shapes import Health, Queue, Readiness, Team, TeamDetail, Worker

router = APIRouter(tags=["installation"])
probes = APIRouter(tags=["installation"])
"""Without a key: they say nothing but whether the parts answer."""
metrics = APIRouter()
"""With a token of their own: they are of all tenants."""


class TeamQuery(PageQuery):
    cursor: str | None = Field(default=None, max_length=100)


@router.get("/workers", response_model=Page[Worker], dependencies=[ReaderOnly])
def list_workers(services: Ours) -> Any:
    """Those that run, and those that went within the last hour."""
    with transaction(services.engine) as connection:
        return {"items": views.installation.workers(connection), "next_cursor": None}


@router.get("/queues", response_model=Page[Queue])
def list_queues(caller: Reader, services: Ours) -> Any:
    """Steps by queue, and what the broker holds (null while it does not answer)."""
    with transaction(services.engine) as connection:
        rows = views.installation.queues(connection, caller.tenant)
    try:
        depths = services.publisher.queue_depth([row["queue"] for row in rows])
    except Unavailable:
        depths = {}
    items = [{**row, "depth": depths.get(row["queue"])} for row in rows]
    return {"items": items, "next_cursor": None}


@router.get("/teams", response_model=Page[Team])
def list_teams(caller: Reader, services: Ours, query: Annotated[TeamQuery, Query()]) -> Any:
    """What new tasks can name, by name."""
    with transaction(services.engine) as connection:
        rows = views.teams.page(connection, caller.tenant, limit=query.limit + 1, after=query.cursor)
    return cut(rows, query.limit, lambda row: row["name"])


@router.get("/teams/{name}", response_model=TeamDetail)
def read_team(
    name: str, caller: Reader, services: Ours, digest: Annotated[str | None, Query(min_length=4, max_length=100)] = None
) -> Any:
    """The newest version, or the one whose digest begins with `digest`."""
    with transaction(services.engine) as connection:
        return views.teams.read(connection, caller.tenant, name, digest)


@probes.get("/health", response_model=Health)
async def health() -> Any:
    """The process lives. Restart it when this does not answer."""
    return {"status": "ok"}


@probes.get("/ready", response_model=Readiness)
def ready(services: Everyones) -> Any:
    """Whether requests can be served: 503 without the database or with another version's schema.

    `degraded` while only reads are served (disk, backlog), or nothing is delivered (broker).
    """
    try:
        migrate.require_served(services.engine)
    except Misconfigured as error:
        raise Unavailable(error.text) from None
    troubles = services.vitals.troubles()
    try:
        services.publisher.queue_depth(list(QUEUE_OF_ROLE.values())[:1])
    except Unavailable:
        troubles["broker"] = "does not answer; tasks are kept until it does"
    return {
        "status": "degraded" if any(troubles.values()) else "ready",
        "database": "ok",
        **{part: troubles.get(part) or "ok" for part in ("broker", "disk", "backlog")},
    }


@metrics.get("/metrics", include_in_schema=False)
def read_metrics(request: Request, services: Everyones) -> Response:
    """The whole installation in figures, for whoever shows the `metrics_token`."""
    services.metrics.require_reader(request.headers.get("authorization"))
    return Response(services.metrics.text(), media_type=CONTENT_TYPE)
