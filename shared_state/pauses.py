"""Pauses: a task, a team or one agent of a team begins nothing new until it is resumed.

What runs goes on, and its outcome counts. The claim is where a pause holds; entries that it refuses are parked, and the
relay puts them back once the pause has ended. Deadlines go on running.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Engine

from contracts.errors import Conflict, NotFound
from shared_state import transitions
from shared_state.connection import Connection
from shared_state.engine import new_id, retrying
from shared_state.outbox import wake_relay
from shared_state.statements import query, run
from shared_state.transitions import About


@dataclass(frozen=True)
class Target:
    """What is paused or resumed: a task, or a team, or one agent of a team."""

    task_id: UUID | None = None
    team: str | None = None
    agent: str | None = None


def pause(engine: Engine, tenant: str, target: Target, reason: str, actor: str) -> None:
    """Pausing what is paused changes nothing. Raises `NotFound`, or `Conflict` for a task that has ended."""

    def work(connection: Connection) -> About | None:
        about = _require(connection, tenant, target)
        made = run(
            connection, "pause", id=new_id(), tenant=tenant, task_id=target.task_id, team=target.team,
            agent=target.agent, reason=reason, actor=actor,
        )  # fmt: skip
        return about if made else None

    paused = retrying(engine, work)
    if paused is not None:
        transitions.acted("team.paused" if target.team else "task.paused", paused, actor, team=target.team)


def resume(engine: Engine, tenant: str, target: Target, actor: str) -> None:
    """Resuming what is not paused changes nothing. Raises `NotFound`."""

    def work(connection: Connection) -> About | None:
        about = _require(connection, tenant, target, ended_too=True)
        ended = run(
            connection, "resume", tenant=tenant, task_id=target.task_id, team=target.team, agent=target.agent,
            actor=actor,
        )  # fmt: skip
        wake_relay(connection)
        return about if ended else None

    resumed = retrying(engine, work)
    if resumed is not None:
        transitions.acted("team.resumed" if target.team else "task.resumed", resumed, actor, team=target.team)


def _require(connection: Connection, tenant: str, target: Target, *, ended_too: bool = False) -> About:
    if target.task_id is not None:
        rows = query(
            connection,
            "select state, finished_at, traceparent from tasks where id = %(id)s and tenant_id = %(tenant)s",
            id=target.task_id, tenant=tenant,
        )  # fmt: skip
        if not rows:
            raise NotFound(f"there is no task {target.task_id}; `orchestrator tasks` lists yours")
        if rows[0]["finished_at"] is not None and not ended_too:
            raise Conflict(f"the task has already {rows[0]['state']}; there is nothing to pause")
        return About(tenant, target.task_id, traceparent=rows[0]["traceparent"])
    # Any version: tasks may be at work with one that had the agent still.
    rows = query(
        connection,
        """select bool_or(%(agent)s::text is null or definition -> 'agents' ? %(agent)s::text) as has_agent from teams
        where tenant_id = %(tenant)s and name = %(team)s having count(*) > 0""",
        tenant=tenant, team=target.team, agent=target.agent,
    )  # fmt: skip
    if not rows:
        raise NotFound(f"there is no team {target.team!r}; `orchestrator teams list` shows those applied")
    if not rows[0]["has_agent"]:
        raise NotFound(f"team {target.team!r} has no agent {target.agent!r}; `orchestrator teams list` shows them")
    return About(tenant, agent=target.agent)
