"""Bytes on a queue that were no message: a person writes the message anew, for steps of theirs that wait right now.

Nothing of what is written travels as it is: it only names steps. The message that goes out is one of our own, with the
epochs, queue and kind that Postgres knows, a new id, and our signature.
"""

import json
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Engine

from contracts.errors import Conflict, InvalidInput
from contracts.messages import STEPS_LIMIT
from contracts.topology import MessageKind
from shared_state import transitions
from shared_state.connection import Connection
from shared_state.crash_points import crash_point
from shared_state.dead_letters import Redriven, lock
from shared_state.engine import new_id, retrying
from shared_state.outbox import wakeups_of
from shared_state.statements import query, run
from shared_state.transitions import About


class NamedStep(BaseModel):
    """`epoch` may be left out: it is the step's own then."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: UUID
    epoch: int | None = Field(default=None, ge=0, lt=2**63)


class Rewritten(BaseModel):
    """The decoded message of a dead letter, mended. What the envelope had (`id`, `version`, `key`, `signature`,
    `traceparent`) may stay and is made anew; `kind` and `queue` are checked where they are given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: tuple[NamedStep, ...] = Field(min_length=1, max_length=STEPS_LIMIT)
    kind: MessageKind | None = None
    queue: str | None = Field(default=None, max_length=100)
    version: Any = None
    id: Any = None
    key: Any = None
    signature: Any = None
    traceparent: Any = None


def redrive_message(
    engine: Engine, tenant: str, letter_id: UUID, message: Rewritten, actor: str, *, dry_run: bool = False
) -> Redriven:
    """Close the dead letter and send a message for the steps named; a second click changes nothing.

    `NotFound` and `Conflict` where the dead letter is not the tenant's or is of a step; `InvalidInput`, with the field,
    where a step is not one of the tenant's that waits for a worker now, or a pause or a limit holds it.
    """

    def work(connection: Connection) -> Redriven:
        (letter,) = lock(connection, tenant, [letter_id])
        if letter["step_id"] is not None:
            raise Conflict(f"dead letter {letter_id} is of a step: edit its input, it has no message to write anew")
        if letter["state"] != "open":
            return Redriven(unchanged=[letter_id])
        _check(connection, tenant, message)
        if dry_run:
            return Redriven(redriven=[letter_id])
        rows = run(
            connection,
            "redrive_message",
            id=letter_id,
            edit_id=new_id(),
            actor=actor,
            message=json.dumps(message.model_dump(mode="json", exclude_unset=True)),
            step_ids=[step.id for step in message.steps],
        )
        if not rows:  # closed by somebody else while we looked
            return Redriven(unchanged=[letter_id])
        crash_point("C36")
        return Redriven(redriven=[letter_id], wakeups=wakeups_of(connection, rows))

    done = retrying(engine, work)
    if done.redriven and not dry_run:
        steps = [str(step.id) for step in message.steps]
        transitions.acted(
            "message.redriven", About(tenant), actor, dead_letter_id=str(letter_id), step_ids=steps
        )  # fmt: skip
    return done


def _check(connection: Connection, tenant: str, message: Rewritten) -> None:
    """Every step named waits for a worker, as the message says. Their queue entries are locked until the end."""
    waiting = query(
        connection,
        """select step_id, epoch, queue, kind from outbox
        where tenant_id = %(tenant)s and step_id = any (%(ids)s::uuid[]) order by step_id for update""",
        tenant=tenant,
        ids=[step.id for step in message.steps],
    )
    entries = {row["step_id"]: row for row in waiting}
    for index, step in enumerate(message.steps):
        entry = entries.get(step.id)
        where = f"message.steps.{index}"
        if entry is None:
            raise InvalidInput(f"{where}.id: {_why_not(connection, tenant, step.id)}", field=f"{where}.id")
        if step.epoch not in (None, entry["epoch"]):
            text = f"{where}.epoch: the step is at epoch {entry['epoch']} now; write that, or leave it out"
            raise InvalidInput(text, field=f"{where}.epoch")
        for name, given in (("kind", message.kind), ("queue", message.queue)):
            if given not in (None, entry[name]):
                text = f"message.{name}: step {step.id} waits with {name} {entry[name]!r}; write that, or leave it out"
                raise InvalidInput(text, field=f"message.{name}")


def _why_not(connection: Connection, tenant: str, step_id: UUID) -> str:
    """Why nobody can be sent for a step that has no queue entry, and what to do. A held one needs no message."""
    held = query(
        connection,
        """select r.task_id, r.team_name, r.agent, r.concurrency, r.set_by from parked k
        join rules r on r.id = k.rule_id and r.ended_at is null
        where k.step_id = %(id)s and k.tenant_id = %(tenant)s""",
        id=step_id, tenant=tenant,
    )  # fmt: skip
    if not held:
        return "no step of yours with this id waits for a worker; `orchestrator steps TASK` lists them"
    rule = held[0]
    agent = f"agent {rule['agent']!r} of team {rule['team_name']!r}"
    if rule["concurrency"]:
        cause = f"all {rule['concurrency']} places of {agent} are taken"
        remedy = "It is sent for by itself when one is free"
    else:
        if rule["task_id"]:
            what, target = "its task", rule["task_id"]
        elif rule["agent"]:
            what, target = agent, f"--team {rule['team_name']} --agent {rule['agent']}"
        else:
            what, target = f"team {rule['team_name']!r}", f"--team {rule['team_name']}"
        cause = f"{what} was paused by {rule['set_by']}"
        remedy = f"Once it is resumed (`orchestrator resume {target}`) the step is sent for by itself"
    return f"the step is held: {cause}. {remedy}: discard this dead letter"
