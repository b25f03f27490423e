"""From an accepted plan to the rows of its steps; and whether every step's input fits its agent's schema."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import UUID

import jsonschema_rs

from contracts.plans import Plan, Step, order_plan
from contracts.same import Same
from contracts.teams import Role, Team
from contracts.topology import MessageKind, queue_of
from contracts.verdicts import Reason
from shared_state.connection import Connection
from shared_state.engine import new_id
from shared_state.outbox import DIRECT_LIMIT, Wakeup, wake_relay, wakeup_of
from shared_state.statements import json_text, send


def plan_rows(
    plan: Plan, team: Team, tenant: str, task_id: UUID, planner_id: UUID | None = None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Step rows (parents before children, ids ascending) and need rows of a checked plan, made by a planner's step."""
    ordered = order_plan(plan)
    ids = {item.step.id: step_id for item, step_id in zip(ordered, sorted(new_id() for _ in ordered), strict=True)}
    made_by = {} if planner_id is None else {"planner_id": planner_id}
    steps = []
    for item in ordered:
        step = item.step
        reviewer = step.review or team.agents[step.agent].review
        steps.append(
            step_row(
                team, tenant, task_id, ids[step.id], step.id, step.agent, step.input,
                reviewer=reviewer, optional=step.optional, rank=item.rank, has_dependents=item.has_dependents,
                needs_left=len(set(step.needs)),
            )
            | made_by
        )  # fmt: skip
    needs = [
        {"tenant_id": tenant, "task_id": task_id, "step_id": ids[step.id], "needs_id": ids[need]} | made_by
        for step in plan.steps
        for need in set(step.needs)
    ]
    return steps, needs


def step_row(
    team: Team,
    tenant: str,
    task_id: UUID,
    step_id: UUID,
    key: str,
    agent: str,
    input: Any,
    *,
    reviewer: str | None = None,
    optional: bool = False,
    rank: int = 0,
    has_dependents: bool = False,
    needs_left: int = 0,
) -> dict[str, Any]:
    return {
        "id": step_id,
        "tenant_id": tenant,
        "task_id": task_id,
        "key": key,
        "role": team.agents[agent].role.value,
        "agent": agent,
        "queue": queue_of(team.agents[agent]),
        "reviewer": reviewer,
        "reviewer_queue": queue_of(team.agents[reviewer]) if reviewer else None,
        "input": input,
        "optional": optional,
        "rank": rank,
        "has_dependents": has_dependents,
        "needs_left": needs_left,
    }


@dataclass(frozen=True)
class Creating:
    """Steps on their way into the database: `expected` are the entries to be published by whoever creates them, before
    it is known whether they were created; `read` says so, also after the commit."""

    expected: list[Wakeup]
    read: Callable[[], list[Wakeup]]


def begin_steps(
    connection: Connection,
    steps: Sequence[Mapping[str, Any]],
    needs: Sequence[Mapping[str, Any]],
    *,
    planners: Sequence[UUID] = (),
    direct: int = DIRECT_LIMIT,
) -> Creating:
    """Insert steps and needs of any number of tasks with one statement, without waiting for it.

    Rows that name one of `planners`' steps as `planner_id` are created only if this transaction accepted its plan.
    """
    sent = send(
        connection,
        "create_steps",
        steps=json_text(steps),
        needs=json_text(needs),
        planners=list(planners),
        direct=direct,
    )
    expected: list[Wakeup] = []
    counts: Counter[UUID] = Counter()
    for step in steps:
        if not step["needs_left"]:
            counts[step["task_id"]] += 1
            if counts[step["task_id"]] <= direct:
                expected.append(Wakeup(step["id"], 1, step["queue"], _kind_of(step), None))
    if max(counts.values(), default=0) > direct:
        wake_relay(connection)
    return Creating(expected, lambda: [wakeup_of(row) for row in sent.rows() if row["published"]])


def _kind_of(step: Mapping[str, Any]) -> MessageKind:
    return MessageKind.PLAN if step["role"] == Role.PLANNER else MessageKind.EXECUTE


def check_inputs(steps: Iterable[Step], team: Team, *, reason_limit: int = 20) -> list[Reason]:
    """Inputs that do not fit the input schema of their agent; an empty list means all fit."""
    reasons: list[Reason] = []
    for index, step in enumerate(steps):
        reasons.extend(check_input(step.agent, step.input, team, f"steps.{index}.input"))
        if len(reasons) >= reason_limit:
            break
    return reasons[:reason_limit]


def check_input(agent: str, value: Any, team: Team, where: str) -> list[Reason]:
    """What is wrong with one input, by path."""
    schemas = team.schemas.get(agent)
    if schemas is None or schemas.input is None:
        return []
    validator = _validator(Same(schemas.input))
    reasons = []
    for error in validator.iter_errors(value):
        path = ".".join((where, *(str(part) for part in error.instance_path)))
        reasons.append(Reason(code="input.schema", where=path[:500], text=error.message[:2000]))
        if len(reasons) >= 10:
            break
    return reasons


@lru_cache(maxsize=256)
def _validator(schema: Same[dict[str, Any]]) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(schema.value)
