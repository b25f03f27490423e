"""Dead letters: what was given up on and kept, until a person redrives or discards it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine

from contracts.errors import Conflict, InvalidInput, NotFound
from shared_state.broker.quarantine import BadMessage
from shared_state.engine import new_id, retrying, transaction
from shared_state.outbox import Wakeup, wakeups_of
from shared_state.plan_steps import check_input
from shared_state.statements import query, run
from shared_state.teams import load_team


@dataclass(frozen=True)
class Redriven:
    """`unchanged` were closed already: a second click does nothing. `wakeups` are to be published."""

    redriven: list[UUID] = field(default_factory=list)
    unchanged: list[UUID] = field(default_factory=list)
    wakeups: list[Wakeup] = field(default_factory=list)


def record_raw(engine: Engine, messages: Sequence[BadMessage]) -> None:
    """Keep messages that are not ours to run. Whatever they claim about themselves, they go to tenant `default`."""
    rows = [
        {
            "id": new_id(),
            "reason": message.reason,
            "text": message.text,
            "queue": message.queue,
            "raw": message.raw,
            "size": message.size_bytes,
            "sha256": message.sha256,
            "headers": json.dumps(message.headers).replace("\\u0000", "\\ufffd") if message.headers else None,
        }
        for message in messages
    ]
    sql = """insert into dead_letters (id, tenant_id, reason, text, queue, raw, raw_size_bytes, raw_sha256, headers)
        values (%(id)s, 'default', %(reason)s, %(text)s, %(queue)s, %(raw)s, %(size)s, %(sha256)s,
            %(headers)s::jsonb)"""
    with transaction(engine) as connection:
        for row in rows:
            query(connection, sql, **row)


def redrive(
    engine: Engine, tenant: str, ids: Sequence[UUID], actor: str, *, edit: dict[str, Any] | None = None
) -> Redriven:
    """Put dead steps back under a new epoch, revive their tasks and what was skipped because of them.

    `edit` replaces the input of the one step named, and must fit its agent's schema. `NotFound` when an id is not the
    tenant's, `Conflict` for bytes that never were a message and for steps of a cancelled task.
    """
    if edit is not None and len(ids) != 1:
        raise InvalidInput("an edit goes with exactly one dead letter", field="edit")
    return retrying(engine, lambda connection: _redrive(connection, tenant, sorted(set(ids)), actor, edit))


def discard(engine: Engine, tenant: str, letter_id: UUID, reason: str, actor: str) -> None:
    """Close a dead letter for good; its step is failed. `Conflict` when it is closed already."""

    def work(connection: Connection) -> None:
        letters = _letters(connection, tenant, [letter_id])
        if letters[0]["state"] != "open":
            raise Conflict(f"the dead letter is {letters[0]['state']} already")
        task_ids = [letter["task_id"] for letter in letters if letter["task_id"] is not None]
        run(connection, "lock_tasks", ids=task_ids)
        if not run(connection, "discard", id=letter_id, actor=actor, reason=reason):
            raise Conflict("the dead letter was closed just now by somebody else")

    retrying(engine, work)


def _redrive(connection: Connection, tenant: str, ids: list[UUID], actor: str, edit: dict[str, Any] | None) -> Redriven:
    letters = _letters(connection, tenant, ids)
    for letter in letters:
        if letter["step_id"] is None:
            raise Conflict(f"dead letter {letter['id']} is bytes that never were a message: discard it instead")
        if letter["task_state"] in ("cancelling", "cancelled"):
            raise Conflict(f"the task of dead letter {letter['id']} was cancelled")
    run(connection, "lock_tasks", ids=sorted({letter["task_id"] for letter in letters}))
    if edit is not None:
        _check_edit(connection, tenant, letters[0], edit)
    rows = run(connection, "redrive", ids=ids, actor=actor, edit=None if edit is None else json.dumps(edit))
    redriven = [row["letter_id"] for row in rows]
    tasks = sorted({row["task_id"] for row in rows})
    if tasks:
        # Three statements, because each must see what the one before has locked and changed.
        run(connection, "revive_lock", ids=tasks)
        run(connection, "revive", ids=tasks)
    return Redriven(redriven, [each for each in ids if each not in set(redriven)], wakeups_of(connection, rows))


def _letters(connection: Connection, tenant: str, ids: Sequence[UUID]) -> Sequence[Any]:
    rows = query(
        connection,
        """select l.id, l.state, l.step_id, l.task_id, t.state as task_state, t.team_digest, s.agent
        from dead_letters l left join tasks t on t.id = l.task_id left join steps s on s.id = l.step_id
        where l.tenant_id = %(tenant)s and l.id = any (%(ids)s::uuid[]) order by l.id""",
        tenant=tenant,
        ids=list(ids),
    )
    missing = set(ids) - {row["id"] for row in rows}
    if missing:
        raise NotFound(f"there is no dead letter {min(missing)}")
    return rows


def _check_edit(connection: Connection, tenant: str, letter: Any, edit: dict[str, Any]) -> None:
    team = load_team(connection, tenant, letter["team_digest"])
    reasons = check_input(letter["agent"], edit, team, "edit")
    if reasons:
        raise InvalidInput(reasons[0].text, field=reasons[0].where)
