"""Tasks: submit, cancel, and end those past their deadline."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Engine

from contracts.errors import Conflict, InvalidInput, NotFound, OrchestratorError
from contracts.plans import Plan, check_plan
from contracts.teams import Team
from contracts.verdicts import Reason
from shared_state import transitions
from shared_state.connection import Connection
from shared_state.crash_points import crash_point
from shared_state.engine import new_id, retrying
from shared_state.outbox import Wakeup
from shared_state.plan_steps import begin_steps, check_input, check_inputs, plan_rows, step_row
from shared_state.statements import json_text, query, run, send
from shared_state.teams_cache import TeamsCache
from shared_state.transitions import About

TURN_SECONDS = 0.5
"""How long a submission waits for a lock while others wait for it."""
ROOT_KEY = "@plan"
"""The id of the planner's own step, which no step of a plan can have."""

Label = Annotated[str, Field(max_length=200)]
LabelName = Annotated[str, Field(min_length=1, max_length=100)]
IdempotencyKey = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]


class Submission(BaseModel):
    """One task as a caller submits it. `plan` replaces the planner; `deadline_seconds` count from now."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    team: str = Field(min_length=1, max_length=100)
    goal: str = Field(default="", max_length=100_000)
    input: dict[str, Any] = Field(default_factory=dict)
    plan: Plan | None = None
    labels: dict[LabelName, Label] = Field(default_factory=dict, max_length=50)
    deadline_seconds: float | None = Field(default=None, gt=0, le=31_536_000, strict=True)
    idempotency_key: IdempotencyKey | None = None


@dataclass(frozen=True)
class Created:
    """`replayed` says that the idempotency key was used before, for the same submission: this is its task."""

    task_id: UUID
    replayed: bool = False


@dataclass(frozen=True)
class Submitted:
    """One result per submission, in order; `wakeups` are to be published after the commit."""

    results: list[Created | OrchestratorError]
    wakeups: list[Wakeup]


@dataclass(frozen=True)
class _Prepared:
    task: dict[str, Any]
    steps: list[dict[str, Any]]
    needs: list[dict[str, Any]]


def submit(
    engine: Engine,
    tenant: str,
    submissions: Sequence[Submission],
    *,
    traceparents: Sequence[str | None] = (),
    teams: TeamsCache | None = None,
    in_turn: bool = False,
) -> Submitted:
    """Accept the valid ones in one transaction; a bad one gets its error and does not stop the others.

    `traceparents` are of the submissions, in order, where they have any. Who submits often keeps `teams` between the
    calls; who submits one by one from several threads has a `Submitter`. `in_turn` says that others wait for this one:
    then it waits for a key that somebody is just using for `TURN_SECONDS` only, and raises `Unavailable`.
    """
    known = teams or TeamsCache()
    traced = list(zip_longest(submissions, traceparents))

    def work(connection: Connection) -> tuple[list[Created | OrchestratorError], Callable[[], list[Wakeup]]]:
        if in_turn:
            connection.send(f"set local lock_timeout = {int(TURN_SECONDS * 1000)}", {})
        return _submit(connection, tenant, traced, known)

    results, read_wakeups = retrying(engine, work)
    return Submitted(results, read_wakeups())


def cancel(engine: Engine, tenant: str, task_id: UUID, actor: str) -> None:
    """Stop a task: nothing of it commits after this. Cancelling twice is fine; `Conflict` once it has ended."""

    def work(connection: Connection) -> About | None:
        rows = query(
            connection,
            "select state, traceparent from tasks where id = %(id)s and tenant_id = %(tenant)s for no key update",
            id=task_id,
            tenant=tenant,
        )
        if not rows:
            raise NotFound(f"there is no task {task_id}")
        state = rows[0]["state"]
        if state in ("succeeded", "failed"):
            raise Conflict(f"the task has already {state}; there is nothing to cancel")
        if state in ("cancelling", "cancelled"):
            return None
        _cancel(connection, task_id, actor, "task.cancelled", f"cancelled by {actor}")
        return About(tenant, task_id, traceparent=rows[0]["traceparent"])

    cancelled = retrying(engine, work)
    crash_point("C20")
    if cancelled is not None:
        transitions.acted("task.cancelling", cancelled, actor, code="task.cancelled")


def cancel_overdue(engine: Engine, limit: int = 50) -> int:
    """End tasks whose deadline has passed. Returns how many."""

    def work(connection: Connection) -> list[About]:
        sql = """select id, tenant_id, traceparent from tasks
            where deadline_at < clock_timestamp() and finished_at is null
            and cancel_requested_at is null order by id limit %(limit)s for no key update skip locked"""
        rows = query(connection, sql, limit=limit)
        for row in rows:
            _cancel(connection, row["id"], "deadline", "task.deadline", "the task did not end before its deadline")
        return [About(row["tenant_id"], row["id"], traceparent=row["traceparent"]) for row in rows]

    overdue = retrying(engine, work)
    for about in overdue:
        transitions.acted("task.cancelling", about, "deadline", code="task.deadline")
    return len(overdue)


def _cancel(connection: Connection, task_id: UUID, actor: str, code: str, text: str) -> None:
    run(connection, "cancel", task_id=task_id, actor=actor, error=json.dumps({"code": code, "text": text}))
    run(connection, "clear_cancelled", task_id=task_id)
    run(connection, "settle_tasks", ids=[task_id])
    crash_point("C32")


def _submit(
    connection: Connection,
    tenant: str,
    submissions: Sequence[tuple[Submission, str | None]],
    known: TeamsCache,
) -> tuple[list[Created | OrchestratorError], Callable[[], list[Wakeup]]]:
    teams: dict[str, tuple[str, Team] | NotFound] = {}
    results: list[Created | OrchestratorError] = []
    prepared: list[_Prepared] = []
    for submission, traceparent in submissions:
        if submission.team not in teams:
            teams[submission.team] = _head(connection, tenant, submission.team, known)
        found = teams[submission.team]
        wrong = found if isinstance(found, NotFound) else _check(submission, found[1])
        if isinstance(wrong, OrchestratorError):
            results.append(InvalidInput(wrong.text, field="team") if isinstance(wrong, NotFound) else wrong)
            continue
        if isinstance(found, NotFound):
            raise AssertionError("unreachable")
        ready = _prepare(submission, tenant, found[0], found[1], traceparent)
        body = submission.model_dump(mode="json", exclude={"idempotency_key"}) if submission.idempotency_key else {}
        try:
            earlier = take_key(connection, tenant, submission.idempotency_key, body, ready.task["id"])
        except InvalidInput as refused:
            results.append(refused)
            continue
        if earlier is None:
            prepared.append(ready)
            results.append(Created(ready.task["id"]))
        else:
            results.append(earlier)
    read_wakeups = _insert(connection, prepared) if prepared else list
    crash_point("C01", when=prepared)
    return results, read_wakeups


def _head(connection: Connection, tenant: str, name: str, known: TeamsCache) -> tuple[str, Team] | NotFound:
    try:
        return known.head(connection, tenant, name)
    except NotFound as error:
        return error


def _check(submission: Submission, team: Team) -> InvalidInput | None:
    if submission.plan is not None:
        reasons = check_plan(submission.plan, team) or check_inputs(submission.plan.steps, team)
        return _refusal("plan", reasons) if reasons else None
    first = team.planner
    if first is None:
        if len(team.executors) > 1:
            names = ", ".join(team.executors)
            text = f"team {team.name!r} has no planner and several executors ({names}): bring a plan"
            return InvalidInput(text, field="plan")
        first = team.executors[0]
    reasons = check_input(first, submission.input, team, "input")
    return _refusal("", reasons) if reasons else None


def _refusal(prefix: str, reasons: Sequence[Reason]) -> InvalidInput:
    """The first reason's field, and the texts of the first few: the second often says what the first one meant."""
    field = ".".join(part for part in (prefix, reasons[0].where) if part)
    shown = [
        reason.text if reason.where == reasons[0].where else f"{reason.where}: {reason.text}" for reason in reasons[:3]
    ]
    more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
    return InvalidInput("; ".join(shown) + more, field=field)


def _prepare(submission: Submission, tenant: str, digest: str, team: Team, traceparent: str | None) -> _Prepared:
    task_id = new_id()
    needs: list[dict[str, Any]] = []
    if submission.plan is not None:
        steps, needs = plan_rows(submission.plan, team, tenant, task_id)
    elif team.planner is not None:
        steps = [
            step_row(team, tenant, task_id, new_id(), ROOT_KEY, team.planner, submission.input, has_dependents=True)
        ]
    else:
        agent = team.executors[0]
        reviewer = team.agents[agent].review
        steps = [step_row(team, tenant, task_id, new_id(), agent, agent, submission.input, reviewer=reviewer)]
    planning = submission.plan is None and team.planner is not None
    task = {
        "id": task_id,
        "tenant_id": tenant,
        "team_name": team.name,
        "team_digest": digest,
        "state": "planning" if planning else "running",
        "goal": submission.goal,
        "input": submission.input,
        "labels": submission.labels,
        "step_count": len(steps),
        # The planner's own step is not one of the plan's.
        "step_limit": team.bounds.steps + (1 if planning else 0),
        "traceparent": traceparent,
        "deadline_seconds": submission.deadline_seconds,
        "planned": not planning,
    }
    return _Prepared(task, steps, needs)


def take_key(
    connection: Connection, tenant: str, key: str | None, body: Mapping[str, Any], task_id: UUID
) -> Created | None:
    """None when there is no key, or this is the first time it is used; else the task it made, for the same body.

    Raises `InvalidInput` where it was used with another body.
    """
    if key is None:
        return None
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    taken = query(
        connection,
        """insert into idempotency_keys (tenant_id, key, digest, task_id)
        values (%(tenant)s, %(key)s, %(digest)s, %(task_id)s)
        on conflict (tenant_id, key) do nothing returning key""",
        tenant=tenant, key=key, digest=digest, task_id=task_id,
    )  # fmt: skip
    if taken:
        return None
    earlier = query(
        connection,
        "select digest, task_id from idempotency_keys where tenant_id = %(tenant)s and key = %(key)s",
        tenant=tenant, key=key,
    )  # fmt: skip
    if earlier[0]["digest"] != digest:
        raise InvalidInput(
            "this key was used for another submission: use a new key, or send the same body", field="idempotency_key"
        )
    return Created(earlier[0]["task_id"], replayed=True)


def _insert(connection: Connection, prepared: Sequence[_Prepared]) -> Callable[[], list[Wakeup]]:
    send(connection, "create_tasks", tasks=json_text([each.task for each in prepared]))
    steps: list[Mapping[str, Any]] = [step for each in prepared for step in each.steps]
    needs: list[Mapping[str, Any]] = [need for each in prepared for need in each.needs]
    return begin_steps(connection, steps, needs).read
