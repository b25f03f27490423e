"""Dead letters: what was given up on and kept, until a person redrives or discards it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Engine

from contracts.errors import Conflict, InvalidInput, NotFound, OrchestratorError
from shared_state import transitions
from shared_state.broker.quarantine import BadMessage
from shared_state.connection import Connection
from shared_state.crash_points import crash_point
from shared_state.engine import new_id, retrying, transaction
from shared_state.outbox import Wakeup, wakeups_of
from shared_state.plan_steps import check_input
from shared_state.statements import query, run
from shared_state.teams import load_team
from shared_state.transitions import About, Act

CHUNK = 200
"""How many dead letters `redrive_many` puts back in one transaction."""


@dataclass(frozen=True)
class Redriven:
    """`unchanged` were closed already: a second click does nothing. `refused` cannot be put back, with the reason.

    `wakeups` are to be published. `about` are the steps of those that were put back, by dead letter.
    """

    redriven: list[UUID] = field(default_factory=list)
    unchanged: list[UUID] = field(default_factory=list)
    refused: dict[UUID, OrchestratorError] = field(default_factory=dict)
    wakeups: list[Wakeup] = field(default_factory=list)
    about: dict[UUID, About] = field(default_factory=dict)


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
        crash_point("C42")


def redrive(
    engine: Engine,
    tenant: str,
    ids: Sequence[UUID],
    actor: str,
    *,
    edit: dict[str, Any] | None = None,
    dry_run: bool = False,
) -> Redriven:
    """Put dead steps back under a new epoch, revive their tasks and what was skipped because of them.

    `edit` replaces the input of the one step named, and must fit its agent's schema. `NotFound` when an id is not the
    tenant's, `Conflict` for bytes that never were a message and for steps of a cancelled task; then nothing is put
    back. `dry_run` checks everything and changes nothing.
    """
    if edit is not None and len(ids) != 1:
        raise InvalidInput("an edit goes with exactly one dead letter", field="edit")

    def work(connection: Connection) -> Redriven:
        sorted_out = _sort_out(connection, tenant, ids)
        for error in sorted_out.refused.values():
            raise error
        if edit is not None:
            _check_edit(connection, tenant, ids[0], edit, "edit")
        if dry_run:
            return sorted_out
        if edit is not None:
            _edit(connection, ids[0], edit, actor)
        return _redrive(connection, sorted_out, actor)

    done = retrying(engine, work)
    crash_point("C25")
    if edit is not None:
        _tell("step.edited", done, actor)
    _tell("step.redriven", done, actor)
    return done


def redrive_many(
    engine: Engine,
    tenant: str,
    ids: Sequence[UUID],
    actor: str,
    *,
    per_second: float | None = None,
    dry_run: bool = False,
) -> Redriven:
    """Put back those of them that can be; the others are told apart, and stop none.

    With `per_second` each step gets a due time of its own, in the order of `ids`, so that at most so many begin each
    second; nobody has to stay and wait. One transaction for each `CHUNK` of them.
    """
    done = Redriven()
    wanted = list(dict.fromkeys(ids))
    for start in range(0, len(wanted), CHUNK):
        chunk = wanted[start : start + CHUNK]

        def work(connection: Connection, chunk: Sequence[UUID] = chunk) -> Redriven:
            sorted_out = _sort_out(connection, tenant, chunk)
            if dry_run:
                return sorted_out
            return _redrive(connection, sorted_out, actor, per_second=per_second, before=len(done.redriven))

        part = retrying(engine, work)
        _tell("step.redriven", part, actor)
        done.redriven.extend(part.redriven)
        done.unchanged.extend(part.unchanged)
        done.refused.update(part.refused)
        done.wakeups.extend(part.wakeups)
    return done


def edit(engine: Engine, tenant: str, letter_id: UUID, input: dict[str, Any], actor: str) -> None:
    """Give the step of an open dead letter another input; what it was stays visible in the letter's edits.

    Raises `InvalidInput` where the input does not fit its agent's schema, `Conflict` where there is nothing to edit.
    """

    def work(connection: Connection) -> About:
        sorted_out = _sort_out(connection, tenant, [letter_id])
        for error in sorted_out.refused.values():
            raise error
        _check_edit(connection, tenant, letter_id, input, "input")
        if not _edit(connection, letter_id, input, actor):
            raise Conflict(f"dead letter {letter_id} is not open any more: there is nothing to edit")
        (letter,) = _letters(connection, tenant, [letter_id])
        return _about(tenant, letter)

    about = retrying(engine, work)
    transitions.acted("step.edited", about, actor, dead_letter_id=str(letter_id))


def discard(engine: Engine, tenant: str, letter_id: UUID, reason: str, actor: str) -> None:
    """Close a dead letter for good; its step is failed. `Conflict` when it is closed already."""

    def work(connection: Connection) -> About:
        (letter,) = lock(connection, tenant, [letter_id])
        if letter["state"] != "open":
            raise Conflict(f"the dead letter is {letter['state']} already")
        if not run(connection, "discard", id=letter_id, actor=actor, reason=reason):
            raise Conflict("the dead letter was closed just now by somebody else")
        crash_point("C37")
        return _about(tenant, letter)

    about = retrying(engine, work)
    crash_point("C38")
    what: Act = "message.discarded" if about.step_id is None else "step.discarded"
    transitions.acted(what, about, actor, dead_letter_id=str(letter_id))


def note(engine: Engine, tenant: str, letter_id: UUID, text: str, author: str) -> None:
    """Add a note to a dead letter, open or closed. Notes are never changed or removed."""
    with transaction(engine) as connection:
        written = query(
            connection,
            """insert into dead_letter_notes (id, tenant_id, dead_letter_id, author, text)
            select %(id)s, tenant_id, id, %(author)s, %(text)s from dead_letters
            where id = %(letter)s and tenant_id = %(tenant)s returning id""",
            id=new_id(),
            author=author,
            text=text,
            letter=letter_id,
            tenant=tenant,
        )
    if not written:
        raise unknown(letter_id)


def lock(connection: Connection, tenant: str, ids: Sequence[UUID]) -> Sequence[Any]:
    """The dead letters of these ids, read after their tasks are locked: what they say of them holds till the end.

    Ordered by id. Raises `NotFound` where one is not the tenant's.
    """
    letters = _letters(connection, tenant, ids)
    missing = set(ids) - {letter["id"] for letter in letters}
    if missing:
        raise unknown(min(missing))
    _lock_tasks(connection, letters)
    return _letters(connection, tenant, ids)


def unknown(letter_id: UUID) -> NotFound:
    return NotFound(f"there is no dead letter {letter_id}; `orchestrator dead-letters list` lists yours")


def _sort_out(connection: Connection, tenant: str, ids: Sequence[UUID]) -> Redriven:
    """Lock the tasks, then tell apart what can be put back, what is closed already, and what cannot be, with why."""
    _lock_tasks(connection, _letters(connection, tenant, ids))
    letters = {letter["id"]: letter for letter in _letters(connection, tenant, ids)}
    found = Redriven()
    for letter_id in dict.fromkeys(ids):
        letter = letters.get(letter_id)
        refusal = unknown(letter_id) if letter is None else _refusal(letter)
        if refusal is not None:
            found.refused[letter_id] = refusal
        elif letter is not None and letter["state"] == "open":
            found.redriven.append(letter_id)
        else:
            found.unchanged.append(letter_id)
    return found


def _refusal(letter: Any) -> Conflict | None:
    if letter["step_id"] is None and letter["state"] == "open":
        text = f"dead letter {letter['id']} is bytes that never were a message: write the message anew, or discard it"
        return Conflict(text)
    if letter["task_state"] in ("cancelling", "cancelled"):
        return Conflict(f"the task of dead letter {letter['id']} was cancelled")
    return None


def _redrive(
    connection: Connection, sorted_out: Redriven, actor: str, *, per_second: float | None = None, before: int = 0
) -> Redriven:
    """`before` is how many were put back earlier at this rate."""
    rows = run(
        connection, "redrive", ids=sorted_out.redriven, actor=actor, per_second=per_second, before=before
    )  # fmt: skip
    redriven = {row["letter_id"] for row in rows}
    tasks = sorted({row["task_id"] for row in rows})
    if tasks:
        # Three statements, because each must see what the one before has locked and changed.
        run(connection, "revive_lock", ids=tasks)
        run(connection, "revive", ids=tasks)
    crash_point("C35", when=tasks)
    return Redriven(
        redriven=[each for each in sorted_out.redriven if each in redriven],
        unchanged=[*sorted_out.unchanged, *(each for each in sorted_out.redriven if each not in redriven)],
        refused=sorted_out.refused,
        wakeups=wakeups_of(connection, [row for row in rows if row["published"] is not None]),
        about={row["letter_id"]: _about(row["tenant_id"], row) for row in rows},
    )


def _about(tenant: str, row: Mapping[str, Any]) -> About:
    return About(tenant, row["task_id"], row["step_id"], row["epoch"], row["agent"], row["traceparent"])


def _tell(act: Act, done: Redriven, actor: str) -> None:
    for letter_id, about in done.about.items():
        transitions.acted(act, about, actor, dead_letter_id=str(letter_id))


def _edit(connection: Connection, letter_id: UUID, input: dict[str, Any], actor: str) -> bool:
    """Whether it was open, and so was edited."""
    return bool(run(connection, "edit", id=letter_id, edit_id=new_id(), input=json.dumps(input), actor=actor))


def _letters(connection: Connection, tenant: str, ids: Sequence[UUID]) -> Sequence[Any]:
    return query(
        connection,
        """select l.id, l.state, l.step_id, l.task_id, t.state as task_state, t.team_digest, t.traceparent,
            s.agent, s.epoch
        from dead_letters l left join tasks t on t.id = l.task_id left join steps s on s.id = l.step_id
        where l.tenant_id = %(tenant)s and l.id = any (%(ids)s::uuid[]) order by l.id""",
        tenant=tenant,
        ids=list(ids),
    )


def _lock_tasks(connection: Connection, letters: Sequence[Any]) -> None:
    run(connection, "lock_tasks", ids=sorted({letter["task_id"] for letter in letters if letter["task_id"]}))


def _check_edit(connection: Connection, tenant: str, letter_id: UUID, input: dict[str, Any], where: str) -> None:
    (letter,) = _letters(connection, tenant, [letter_id])
    if letter["step_id"] is None:
        raise Conflict(f"dead letter {letter_id} is bytes that never were a message: it has no input to edit")
    team = load_team(connection, tenant, letter["team_digest"])
    reasons = check_input(letter["agent"], input, team, where)
    if reasons:
        raise InvalidInput(
            "; ".join(f"{reason.where}: {reason.text}" for reason in reasons[:3]), field=reasons[0].where
        )
