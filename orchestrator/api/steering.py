"""Steering over HTTP: pause and resume a task, a team or an agent; drain a worker; see what is held."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from orchestrator.api.bodies import parse_model
from orchestrator.api.pages import Page
from orchestrator.api.schemas import body_of
from orchestrator.api.services import Administrator, Body, Everyones, Operator, Ours, Reader, Services, parse_id
from shared_state import pauses, presence, views
from shared_state.engine import transaction
from shared_state.keys import Caller
from shared_state.pauses import Target
from shared_state.shapes import Limit, Overview, Pause, TaskDetail, Worker

router = APIRouter(tags=["steering"])


class Pausing(BaseModel):
    """Why, for whoever finds it paused."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(default="", max_length=2000)


@router.post("/tasks/{task_id}/pause", response_model=TaskDetail, openapi_extra=body_of(Pausing))
def pause_task(task_id: str, caller: Operator, body: Body, services: Ours) -> Any:
    """Begin no more of its steps; what runs goes on, and its deadline does. Pausing twice is fine."""
    return _pause(services, caller, Target(task_id=parse_id(task_id, "task")), body)


@router.post("/tasks/{task_id}/resume", response_model=TaskDetail)
def resume_task(task_id: str, caller: Operator, services: Ours) -> Any:
    """End its own pause; one of its team or of an agent stays. Resuming twice is fine."""
    return _resume(services, caller, Target(task_id=parse_id(task_id, "task")))


@router.post("/teams/{name}/pause", response_model=Page[Pause], openapi_extra=body_of(Pausing))
def pause_team(name: str, caller: Operator, body: Body, services: Ours) -> Any:
    """Begin no more steps of any task of this team, in any version. Answers with all that is paused."""
    return _pause(services, caller, Target(team=name), body)


@router.post("/teams/{name}/resume", response_model=Page[Pause])
def resume_team(name: str, caller: Operator, services: Ours) -> Any:
    return _resume(services, caller, Target(team=name))


@router.post("/teams/{name}/agents/{agent}/pause", response_model=Page[Pause], openapi_extra=body_of(Pausing))
def pause_agent(name: str, agent: str, caller: Operator, body: Body, services: Ours) -> Any:
    """Begin no more steps, or reviews, of this agent; the team's others go on."""
    return _pause(services, caller, Target(team=name, agent=agent), body)


@router.post("/teams/{name}/agents/{agent}/resume", response_model=Page[Pause])
def resume_agent(name: str, agent: str, caller: Operator, services: Ours) -> Any:
    return _resume(services, caller, Target(team=name, agent=agent))


@router.get("/pauses", response_model=Page[Pause])
def list_pauses(caller: Reader, services: Ours) -> Any:
    """What is paused: by whom, why, since when, and how many steps wait for it."""
    return _answer(services, caller, Target())


@router.get("/limits", response_model=Page[Limit])
def list_limits(caller: Reader, services: Ours) -> Any:
    """Agents whose steps run only so often at once (`concurrency` of their team), and how many wait for a place."""
    with transaction(services.engine) as connection:
        return {"items": views.overview.limits(connection, caller.tenant), "next_cursor": None}


@router.get("/overview", response_model=Overview)
def overview(
    caller: Reader,
    services: Ours,
    since: Annotated[str | None, Query(max_length=19, pattern=r"^(0|[1-9][0-9]*)$")] = None,
) -> Any:
    """Everything that a screen for people on call shows. `since` is the `cursor` of an earlier one: what has begun and
    ended between the two is counted."""
    with transaction(services.engine) as connection:
        return views.overview.read(connection, caller.tenant, since)


@router.post("/workers/{name}/drain", response_model=Page[Worker])
def drain_worker(name: str, caller: Administrator, services: Everyones) -> Any:
    """Have one worker process take nothing new, finish what it holds, and end; it hears of it within seconds.

    Workers are everybody's, so this is for admins. Whoever starts workers decides whether another takes its place.
    """
    presence.ask_to_drain(services.engine, name, caller.name)
    with transaction(services.engine) as connection:
        return {"items": views.installation.workers(connection), "next_cursor": None}


def _pause(services: Services, caller: Caller, target: Target, body: Any) -> Any:
    pauses.pause(services.engine, caller.tenant, target, parse_model(body, Pausing).reason, caller.name)
    return _answer(services, caller, target)


def _resume(services: Services, caller: Caller, target: Target) -> Any:
    pauses.resume(services.engine, caller.tenant, target, caller.name)
    return _answer(services, caller, target)


def _answer(services: Services, caller: Caller, target: Target) -> Any:
    with transaction(services.engine) as connection:
        if target.task_id is not None:
            return views.tasks.read(connection, caller.tenant, target.task_id)
        return {"items": views.overview.pauses(connection, caller.tenant), "next_cursor": None}
