"""Forks: a new task that takes over what another has already accepted, and does the rest again from one step on."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Engine

from contracts.errors import InvalidInput
from contracts.states import StepState
from contracts.teams import Role
from shared_state import transitions
from shared_state.connection import Connection
from shared_state.crash_points import crash_point
from shared_state.engine import new_id, retrying
from shared_state.outbox import DIRECT_LIMIT, Wakeup, wakeups_of
from shared_state.plan_steps import check_input
from shared_state.statements import run
from shared_state.tasks import Created, IdempotencyKey, take_key
from shared_state.teams import load_team
from shared_state.transitions import About
from shared_state.views.tasks import unknown


class Forking(BaseModel):
    """`from` is the id of a step in its plan, or its UUID; `edit` replaces that step's input."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    from_step: str = Field(alias="from", min_length=1, max_length=200)
    edit: dict[str, Any] | None = None
    idempotency_key: IdempotencyKey | None = None


@dataclass(frozen=True)
class Forked:
    """`wakeups` are to be published; none where the fork was made before, with the same idempotency key."""

    created: Created
    wakeups: list[Wakeup]


@dataclass(frozen=True)
class Origin:
    """One step of the task that is forked, at this moment."""

    id: UUID
    key: str
    role: Role
    agent: str
    accepted: bool
    needs: Sequence[UUID]


def fork(
    engine: Engine, tenant: str, task_id: UUID, forking: Forking, actor: str, *, traceparent: str | None = None
) -> Forked:
    """Start a task with the same team, goal, input and labels that does `forking.from_step` again, and what follows.

    The task may be in any state, and is left as it is. `NotFound` where the tenant has no such task, `InvalidInput`
    (with its field) for a step it does not have, an edit that does not fit the agent's schema, or an idempotency key
    that was used for something else.
    """

    def work(connection: Connection) -> Forked:
        rows = run(connection, "fork_origin", id=task_id, tenant=tenant)
        if not rows:
            raise unknown(task_id)
        steps = [_origin(row) for row in rows]
        at = _find(steps, forking.from_step)
        if forking.edit is not None:
            _check_edit(connection, tenant, rows[0]["team_digest"], at.agent, forking.edit)
        new_task_id = new_id()
        earlier = take_key(connection, tenant, forking.idempotency_key, _meaning(task_id, at, forking), new_task_id)
        if earlier is not None:
            return Forked(earlier, [])
        queued = run(
            connection,
            "fork",
            origin=task_id,
            task_id=new_task_id,
            planning=at.role is Role.PLANNER,
            traceparent=traceparent,
            from_id=at.id,
            from_key=at.key,
            actor=actor,
            edited=forking.edit is not None,
            direct=DIRECT_LIMIT,
            **_rows(steps, at, forking.edit),
        )
        if not queued:
            raise unknown(task_id)  # pruned since it was read
        crash_point("C44")
        return Forked(Created(new_task_id), wakeups_of(connection, queued))

    forked = retrying(engine, work)
    if not forked.created.replayed:
        about = About(tenant, forked.created.task_id, traceparent=traceparent)
        transitions.acted("task.forked", about, actor, from_task_id=str(task_id))
    return forked


def copied(steps: Sequence[Origin], at: Origin) -> list[Origin]:
    """What the fork has: all of it, or the planner's own step alone where it is to plan anew."""
    return [at] if at.role is Role.PLANNER else list(steps)


def shared(steps: Sequence[Origin], at: Origin) -> set[UUID]:
    """The steps whose accepted outputs the fork takes over: all but `at`, and whatever needs a step that runs anew."""
    dependents: dict[UUID, list[UUID]] = {}
    for step in steps:
        for need in step.needs:
            dependents.setdefault(need, []).append(step.id)
    anew: set[UUID] = set()
    waiting = [step.id for step in steps if step.id == at.id or not step.accepted]
    while waiting:
        step_id = waiting.pop()
        if step_id not in anew:
            anew.add(step_id)
            waiting.extend(dependents.get(step_id, ()))
    return {step.id for step in steps} - anew


def _rows(steps: Sequence[Origin], at: Origin, edit: Mapping[str, Any] | None) -> dict[str, str]:
    """The new steps, under new ids in the same order, and their needs: `steps` and `needs` of the statement."""
    taken = copied(steps, at)
    kept = shared(taken, at)
    ids = dict(zip(sorted(step.id for step in taken), sorted(new_id() for _ in taken), strict=True))
    made = [
        {
            "id": str(ids[step.id]),
            "from_id": str(step.id),
            "shared": step.id in kept,
            "needs_left": 0 if step.id in kept else sum(need not in kept for need in step.needs),
            "input": edit if step.id == at.id else None,
        }
        for step in taken
    ]
    needs = [
        {"step_id": str(ids[step.id]), "needs_id": str(ids[need]), "shared_id": str(need) if need in kept else None}
        for step in taken
        for need in step.needs
    ]
    return {"steps": json.dumps(made), "needs": json.dumps(needs)}


def _find(steps: Iterable[Origin], name: str) -> Origin:
    """By its id in the plan first: that is what people read and write."""
    ways: tuple[Callable[[Origin], str], ...] = (lambda step: step.key, lambda step: str(step.id))
    for way in ways:
        for step in steps:
            if way(step) == name:
                return step
    raise InvalidInput(f"the task has no step {name!r}; `orchestrator steps TASK` lists its steps", field="from")


def _check_edit(connection: Connection, tenant: str, digest: str, agent: str, edit: Mapping[str, Any]) -> None:
    reasons = check_input(agent, edit, load_team(connection, tenant, digest), "edit")
    if reasons:
        text = "; ".join(f"{reason.where}: {reason.text}" for reason in reasons[:3])
        raise InvalidInput(text, field=reasons[0].where)


def _meaning(task_id: UUID, at: Origin, forking: Forking) -> dict[str, Any]:
    """What an idempotency key stands for."""
    return {"fork": str(task_id), "from": str(at.id), "edit": forking.edit}


def _origin(row: Mapping[str, Any]) -> Origin:
    return Origin(
        id=row["id"],
        key=row["key"],
        role=Role(row["role"]),
        agent=row["agent"],
        accepted=row["state"] == StepState.SUCCEEDED,
        needs=row["needs"],
    )
