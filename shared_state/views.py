"""Reads for people: every function answers one question of the API for one tenant, in the shapes of `shapes.py`.

A foreign tenant's id is as unknown as one that never was: `NotFound`. Lists are keyset pages: newest first by id,
steps by rank and key.
"""

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from contracts.errors import CODES, Conflict, NotFound
from contracts.states import TASK_TERMINAL
from contracts.topology import QUEUE_OF_ROLE
from shared_state.shapes import (
    Attempt,
    DeadLetter,
    DeadLetterDetail,
    ErrorText,
    Event,
    Proposal,
    Question,
    Queue,
    QueueEntry,
    Result,
    Step,
    StepDetail,
    Task,
    TaskDetail,
    Team,
    TeamDetail,
    Usage,
    Worker,
)
from shared_state.statements import query

Row = Mapping[str, Any]

_STEP_EVENTS_LIMIT = 500


# --- tasks ---------------------------------------------------------------------------------------------------------

_TASK = """
select t.id, t.team_name, t.team_digest, t.state, t.degraded, t.goal, t.labels, t.step_count, t.error, t.created_at,
       t.deadline_at, t.cancel_requested_at, t.finished_at, coalesce(c.counts, '{}') as step_counts
from (%s) t
left join lateral (
    select jsonb_object_agg(state, n) as counts
    from (select state, count(*) as n from steps where task_id = t.id group by state) s
) c on true
order by t.id desc
"""


def task(connection: Connection, tenant: str, task_id: UUID) -> TaskDetail:
    rows = query(
        connection,
        _TASK.replace("t.goal,", "t.goal, t.input,") % "select * from tasks where id = %(id)s and tenant_id = %(t)s",
        id=task_id,
        t=tenant,
    )
    if not rows:
        raise NotFound(f"there is no task {task_id}; `orchestrator tasks` lists yours")
    return {**_task(rows[0]), "input": rows[0]["input"]}


def tasks(
    connection: Connection,
    tenant: str,
    *,
    limit: int,
    before: UUID | None = None,
    states: Sequence[str] = (),
    team: str | None = None,
    label: tuple[str, str] | None = None,
) -> list[Task]:
    """Newest first; `before` is the last id of the previous page."""
    page = """
    select * from tasks
    where tenant_id = %(tenant)s
      and (%(before)s::uuid is null or id < %(before)s)
      and (%(states)s::text[] is null or state = any(%(states)s))
      and (%(team)s::text is null or team_name = %(team)s)
      and (%(label)s::text is null or labels ->> %(label)s = %(value)s)
    order by id desc limit %(limit)s
    """
    rows = query(
        connection,
        _TASK % page,
        tenant=tenant,
        before=before,
        states=list(states) or None,
        team=team,
        label=label[0] if label else None,
        value=label[1] if label else None,
        limit=limit,
    )
    return [_task(row) for row in rows]


def require_task(connection: Connection, tenant: str, task_id: UUID) -> None:
    """Raises `NotFound` unless this tenant has the task."""
    if not query(connection, "select 1 from tasks where id = %(id)s and tenant_id = %(t)s", id=task_id, t=tenant):
        raise NotFound(f"there is no task {task_id}; `orchestrator tasks` lists yours")


def result(connection: Connection, tenant: str, task_id: UUID) -> Result:
    """What the task came to. Raises `Conflict` while it is not finished."""
    rows = query(
        connection,
        "select team_name, state, degraded, error from tasks where id = %(id)s and tenant_id = %(tenant)s",
        id=task_id,
        tenant=tenant,
    )
    if not rows:
        raise NotFound(f"there is no task {task_id}; `orchestrator tasks` lists yours")
    head = rows[0]
    if head["state"] not in TASK_TERMINAL:
        raise Conflict(f"the task is {head['state']}: it has no result yet; wait for it to end")
    leaves = query(
        connection,
        """
        select s.key, s.state, o.step_id is not null as accepted, o.body
        from steps s left join outputs o on o.step_id = s.id
        where s.task_id = %(id)s and s.tenant_id = %(tenant)s and s.role = 'executor' and not s.has_dependents
        order by s.rank, s.key
        """,
        id=task_id,
        tenant=tenant,
    )
    return {
        "task_id": str(task_id),
        "team": head["team_name"],
        "state": head["state"],
        "degraded": head["degraded"],
        "error": _error(head["error"]),
        "outputs": {row["key"]: row["body"] for row in leaves if row["accepted"]},
        "missing": {row["key"]: row["state"] for row in leaves if not row["accepted"]},
    }


def _task(row: Row) -> Task:
    return {
        "id": str(row["id"]),
        "team": row["team_name"],
        "team_digest": row["team_digest"],
        "state": row["state"],
        "degraded": row["degraded"],
        "goal": row["goal"],
        "labels": row["labels"],
        "step_count": row["step_count"],
        "step_counts": row["step_counts"],
        "usage": _usage(),
        "error": _error(row["error"]),
        "created_at": _time(row["created_at"]),
        "deadline_at": _time_or_none(row["deadline_at"]),
        "cancel_requested_at": _time_or_none(row["cancel_requested_at"]),
        "finished_at": _time_or_none(row["finished_at"]),
    }


def _usage() -> Usage:
    """No agent of this version calls a model, so nothing is used."""
    return {"model_calls": 0, "input_tokens": 0, "output_tokens": 0, "cost_usd": None}


# --- steps ---------------------------------------------------------------------------------------------------------


def steps(
    connection: Connection,
    tenant: str,
    task_id: UUID,
    *,
    limit: int,
    after: tuple[int, str] | None = None,
    states: Sequence[str] = (),
) -> list[Step]:
    """By rank (0 needs nothing) and key; `after` is the rank and key of the previous page's last."""
    require_task(connection, tenant, task_id)
    rows = query(
        connection,
        """
        select * from steps
        where task_id = %(id)s and tenant_id = %(tenant)s
          and (%(rank)s::int is null or (rank, key) > (%(rank)s, %(key)s::text))
          and (%(states)s::text[] is null or state = any(%(states)s))
        order by rank, key limit %(limit)s
        """,
        id=task_id,
        tenant=tenant,
        rank=after[0] if after else None,
        key=after[1] if after else None,
        states=list(states) or None,
        limit=limit,
    )
    return [_step(row) for row in rows]


def step(connection: Connection, tenant: str, step_id: UUID, *, detailed: bool) -> StepDetail:
    """Everything about one step. `detailed` adds what is for operators only: error details and log tails."""
    rows = query(
        connection,
        """
        select s.*, t.traceparent, o.body as output, o.accepted_at
        from steps s join tasks t on t.id = s.task_id left join outputs o on o.step_id = s.id
        where s.id = %(id)s and s.tenant_id = %(tenant)s
        """,
        id=step_id,
        tenant=tenant,
    )
    if not rows:
        raise NotFound(f"there is no step {step_id}; `orchestrator steps TASK` lists a task's")
    row = rows[0]
    needs = query(
        connection,
        "select n.key from dependencies d join steps n on n.id = d.needs_id where d.step_id = %(id)s order by n.key",
        id=step_id,
    )
    return {
        **_step(row),
        "input": row["input"],
        "output": row["output"],
        "accepted_at": _time_or_none(row["accepted_at"]),
        "feedback": row["feedback"],
        "needs": [need["key"] for need in needs],
        "attempts": _attempts(connection, step_id, detailed),
        "proposals": _proposals(connection, step_id),
        "questions": _questions_of_step(connection, step_id),
        "dead_letters": _dead_letters_of_step(connection, step_id),
        "message": _queue_entry(connection, step_id),
        "events": _events_of_step(connection, row["task_id"], step_id, row["key"]),
        "trace_id": _trace_id(row["traceparent"]),
    }


def _step(row: Row) -> Step:
    return {
        "id": str(row["id"]),
        "task_id": str(row["task_id"]),
        "key": row["key"],
        "role": row["role"],
        "agent": row["agent"],
        "reviewer": row["reviewer"],
        "queue": row["queue"],
        "state": row["state"],
        "optional": row["optional"],
        "degraded": row["degraded"],
        "rank": row["rank"],
        "epoch": row["epoch"],
        "attempt_count": row["attempt_count"],
        "rejection_count": row["rejection_count"],
        "question_count": row["question_count"],
        "worker": row["worker"],
        "due_at": _time_or_none(row["due_at"]),
        "created_at": _time(row["created_at"]),
        "ready_at": _time_or_none(row["ready_at"]),
        "finished_at": _time_or_none(row["finished_at"]),
    }


def _attempts(connection: Connection, step_id: UUID, detailed: bool) -> list[Attempt]:
    rows = query(connection, "select * from attempts where step_id = %(id)s order by epoch", id=step_id)
    return [
        {
            "epoch": row["epoch"],
            "attempt": row["attempt"],
            "role": row["role"],
            "agent": row["agent"],
            "worker": row["worker"],
            "state": row["state"],
            "started_at": _time(row["started_at"]),
            "finished_at": _time_or_none(row["finished_at"]),
            "seconds": row["seconds"],
            "error": _error(row["error"], detailed=detailed),
            "verdicts": row["verdicts"],
            "progress": row["progress"],
            "log_tail": row["log_tail"] if detailed else None,
            "code_hash": row["code_hash"],
        }
        for row in rows
    ]


def _proposals(connection: Connection, step_id: UUID) -> list[Proposal]:
    rows = query(connection, "select * from proposals where step_id = %(id)s order by epoch", id=step_id)
    return [
        {
            "epoch": row["epoch"],
            "state": row["state"],
            "body": row["body"],
            "degraded": row["degraded"],
            "created_at": _time(row["created_at"]),
        }
        for row in rows
    ]


def _queue_entry(connection: Connection, step_id: UUID) -> QueueEntry | None:
    rows = query(connection, "select * from outbox where step_id = %(id)s", id=step_id)
    if not rows:
        return None
    row = rows[0]
    return {
        "kind": row["kind"],
        "queue": row["queue"],
        "epoch": row["epoch"],
        "created_at": _time(row["created_at"]),
        "published_at": _time_or_none(row["published_at"]),
        "publish_count": row["publish_count"],
    }


def _events_of_step(connection: Connection, task_id: UUID, step_id: UUID, key: str) -> list[Event]:
    rows = query(
        connection,
        """
        select xid::text as xid, id, type, epoch, data, at from events
        where task_id = %(task)s and step_id = %(step)s order by xid, id limit %(limit)s
        """,
        task=task_id,
        step=step_id,
        limit=_STEP_EVENTS_LIMIT,
    )
    return [
        {
            "cursor": f"{row['xid']}-{row['id']}",
            "type": row["type"],
            "step_id": str(step_id),
            "step_key": key,
            "epoch": row["epoch"],
            "data": row["data"],
            "at": _time(row["at"]),
        }
        for row in rows
    ]


# --- what waits for people -----------------------------------------------------------------------------------------

_QUESTION = "select q.*, s.key from questions q join steps s on s.id = q.step_id"
_DEAD_LETTER = """
select d.id, d.state, d.reason, d.text, d.task_id, d.step_id, d.epoch, coalesce(d.queue, s.queue) as queue,
       d.raw_size_bytes, d.raw_sha256, d.created_at, d.closed_at, d.closed_by, d.close_reason,
       s.key, s.agent, t.team_name%s
from dead_letters d left join steps s on s.id = d.step_id left join tasks t on t.id = d.task_id
"""


def questions(
    connection: Connection,
    tenant: str,
    *,
    limit: int,
    before: UUID | None = None,
    state: str | None = None,
    task_id: UUID | None = None,
) -> list[Question]:
    rows = query(
        connection,
        f"""{_QUESTION}
        where q.tenant_id = %(tenant)s and (%(before)s::uuid is null or q.id < %(before)s)
          and (%(state)s::text is null or q.state = %(state)s) and (%(task)s::uuid is null or q.task_id = %(task)s)
        order by q.id desc limit %(limit)s
        """,
        tenant=tenant,
        before=before,
        state=state,
        task=task_id,
        limit=limit,
    )
    return [_question(row) for row in rows]


def question(connection: Connection, tenant: str, question_id: UUID) -> Question:
    rows = query(connection, _QUESTION + " where q.id = %(id)s and q.tenant_id = %(t)s", id=question_id, t=tenant)
    if not rows:
        raise NotFound(f"there is no question {question_id}; `orchestrator questions list` lists yours")
    return _question(rows[0])


def dead_letters(
    connection: Connection,
    tenant: str,
    *,
    limit: int,
    before: UUID | None = None,
    state: str | None = None,
    reason: str | None = None,
    team: str | None = None,
    task_id: UUID | None = None,
) -> list[DeadLetter]:
    """`reason` is a code, or the part of codes before the dot (`gate` finds `gate.rejected`)."""
    rows = query(
        connection,
        _DEAD_LETTER % ""
        + """
        where d.tenant_id = %(tenant)s and (%(before)s::uuid is null or d.id < %(before)s)
          and (%(state)s::text is null or d.state = %(state)s)
          and (%(reason)s::text is null or d.reason = %(reason)s or split_part(d.reason, '.', 1) = %(reason)s)
          and (%(team)s::text is null or t.team_name = %(team)s) and (%(task)s::uuid is null or d.task_id = %(task)s)
        order by d.id desc limit %(limit)s
        """,
        tenant=tenant,
        before=before,
        state=state,
        reason=reason,
        team=team,
        task=task_id,
        limit=limit,
    )
    return [_dead_letter(row) for row in rows]


def redrivable(
    connection: Connection,
    tenant: str,
    *,
    limit: int,
    reason: str | None = None,
    team: str | None = None,
    ids: Sequence[UUID] | None = None,
) -> list[UUID]:
    """Open dead letters of steps whose task was not cancelled: those that a redrive can put back."""
    rows = query(
        connection,
        """
        select d.id from dead_letters d join steps s on s.id = d.step_id join tasks t on t.id = d.task_id
        where d.tenant_id = %(tenant)s and d.state = 'open' and t.state not in ('cancelling', 'cancelled')
          and (%(reason)s::text is null or d.reason = %(reason)s or split_part(d.reason, '.', 1) = %(reason)s)
          and (%(team)s::text is null or t.team_name = %(team)s)
          and (%(ids)s::uuid[] is null or d.id = any(%(ids)s))
        order by d.id limit %(limit)s
        """,
        tenant=tenant,
        reason=reason,
        team=team,
        ids=list(ids) if ids is not None else None,
        limit=limit,
    )
    return [row["id"] for row in rows]


def dead_letter(connection: Connection, tenant: str, letter_id: UUID, *, detailed: bool) -> DeadLetterDetail:
    """One dead letter. `detailed` adds the raw bytes and headers of a message that could not be read."""
    rows = query(
        connection,
        _DEAD_LETTER % ", s.input, d.raw, d.headers" + " where d.id = %(id)s and d.tenant_id = %(tenant)s",
        id=letter_id,
        tenant=tenant,
    )
    if not rows:
        raise NotFound(f"there is no dead letter {letter_id}; `orchestrator dead-letters list` lists yours")
    row = rows[0]
    shown = detailed and row["raw"] is not None
    return {
        **_dead_letter(row),
        "step_input": row["input"],
        "headers": row["headers"] if shown else None,
        "raw_base64": base64.b64encode(row["raw"]).decode() if shown else None,
    }


def _questions_of_step(connection: Connection, step_id: UUID) -> list[Question]:
    return [
        _question(row) for row in query(connection, _QUESTION + " where q.step_id = %(id)s order by q.id", id=step_id)
    ]


def _dead_letters_of_step(connection: Connection, step_id: UUID) -> list[DeadLetter]:
    rows = query(connection, _DEAD_LETTER % "" + " where d.step_id = %(id)s order by d.id", id=step_id)
    return [_dead_letter(row) for row in rows]


def _question(row: Row) -> Question:
    return {
        "id": str(row["id"]),
        "task_id": str(row["task_id"]),
        "step_id": str(row["step_id"]),
        "step_key": row["key"],
        "text": row["text"],
        "state": row["state"],
        "answer": row["answer"],
        "asked_at": _time(row["asked_at"]),
        "answered_at": _time_or_none(row["answered_at"]),
        "answered_by": row["answered_by"],
    }


def _dead_letter(row: Row) -> DeadLetter:
    code = CODES.get(row["reason"])
    return {
        "id": str(row["id"]),
        "state": row["state"],
        "reason": row["reason"],
        "text": row["text"],
        "meaning": code.meaning if code else None,
        "remedy": code.remedy if code else None,
        "task_id": _id_or_none(row["task_id"]),
        "step_id": _id_or_none(row["step_id"]),
        "step_key": row["key"],
        "agent": row["agent"],
        "team": row["team_name"],
        "epoch": row["epoch"],
        "queue": row["queue"],
        "raw_size_bytes": row["raw_size_bytes"],
        "raw_sha256": row["raw_sha256"],
        "created_at": _time(row["created_at"]),
        "closed_at": _time_or_none(row["closed_at"]),
        "closed_by": row["closed_by"],
        "close_reason": row["close_reason"],
    }


# --- the installation ----------------------------------------------------------------------------------------------


def workers(connection: Connection) -> list[Worker]:
    """Those that run now, and those that went within the last hour."""
    rows = query(
        connection,
        """
        select * from workers where state <> 'gone' or seen_at > clock_timestamp() - interval '1 hour'
        order by state = 'gone', name
        """,
    )
    return [
        {
            "name": row["name"],
            "host": row["host"],
            "pid": row["pid"],
            "queues": row["queues"],
            "slots": row["slots"],
            "busy": row["busy"],
            "state": row["state"],
            "started_at": _time(row["started_at"]),
            "seen_at": _time(row["seen_at"]),
        }
        for row in rows
    ]


def queues(connection: Connection, tenant: str) -> list[Queue]:
    """Every queue that a role has, a worker serves or a step of this tenant is on. `depth` is left null."""
    rows = query(
        connection,
        """
        with entries as (
            select queue, count(*) filter (where published_at is null) as waiting,
                   count(*) filter (where published_at is not null) as published,
                   extract(epoch from clock_timestamp() - min(created_at))::float8 as oldest_seconds
            from outbox where tenant_id = %(tenant)s group by queue
        ), leased as (
            select case when state = 'reviewing' then coalesce(reviewer_queue, queue) else queue end as queue,
                   count(*) as running
            from steps where lease_until is not null and tenant_id = %(tenant)s group by 1
        ), served as (
            select q.queue, count(*) as worker_count
            from workers w cross join jsonb_array_elements_text(w.queues) as q (queue)
            where w.state <> 'gone' group by q.queue
        )
        select queue, coalesce(waiting, 0) as waiting, coalesce(published, 0) as published,
               coalesce(running, 0) as running, oldest_seconds, coalesce(worker_count, 0) as worker_count
        from (select unnest(%(known)s::text[]) as queue union select queue from entries
              union select queue from leased union select queue from served) as names
        left join entries using (queue) left join leased using (queue) left join served using (queue)
        order by queue
        """,
        tenant=tenant,
        known=list(QUEUE_OF_ROLE.values()),
    )
    return [
        {
            "queue": row["queue"],
            "waiting": row["waiting"],
            "published": row["published"],
            "running": row["running"],
            "oldest_seconds": row["oldest_seconds"],
            "worker_count": row["worker_count"],
            "depth": None,
        }
        for row in rows
    ]


def teams(connection: Connection, tenant: str, *, limit: int, after: str | None = None) -> list[Team]:
    """The teams that new tasks can name, with the digest they would get; by name."""
    rows = query(
        connection,
        """
        select h.name, h.digest, h.applied_at, t.definition
        from team_heads h join teams t using (tenant_id, digest)
        where h.tenant_id = %(tenant)s and (%(after)s::text is null or h.name > %(after)s)
        order by h.name limit %(limit)s
        """,
        tenant=tenant,
        after=after,
        limit=limit,
    )
    return [_team(row) for row in rows]


def team(connection: Connection, tenant: str, name: str, digest: str | None = None) -> TeamDetail:
    """The newest version of a team, or the one whose digest begins with `digest`."""
    known = query(
        connection,
        "select digest from teams where tenant_id = %(t)s and name = %(name)s order by applied_at desc, digest",
        t=tenant,
        name=name,
    )
    rows = query(
        connection,
        """
        select t.name, t.digest, t.applied_at, t.definition
        from teams t left join team_heads h using (tenant_id, digest)
        where t.tenant_id = %(tenant)s and t.name = %(name)s
          and case when %(digest)s::text is null then h.digest is not null else starts_with(t.digest, %(digest)s) end
        order by t.applied_at desc limit 1
        """,
        tenant=tenant,
        name=name,
        digest=digest,
    )
    if not rows:
        wanted = f"{name}@{digest}" if digest else name
        raise NotFound(f"there is no team {wanted!r}; `orchestrator teams list` lists yours")
    return {**_team(rows[0]), "definition": rows[0]["definition"], "digests": [row["digest"] for row in known]}


def _team(row: Row) -> Team:
    definition = row["definition"]
    return {
        "name": row["name"],
        "digest": row["digest"],
        "description": definition.get("description", ""),
        "agents": {name: agent.get("role", "executor") for name, agent in definition.get("agents", {}).items()},
        "applied_at": _time(row["applied_at"]),
    }


# --- JSON ----------------------------------------------------------------------------------------------------------


def _error(stored: Any, *, detailed: bool = False) -> ErrorText | None:
    """The stored failure; its detail (a traceback, a log) only for those who operate."""
    if stored is None:
        return None
    shown: ErrorText = {"code": stored["code"], "text": stored.get("text", "")}
    if stored.get("step") is not None:
        shown["step"] = stored["step"]
    if detailed and stored.get("detail") is not None:
        shown["detail"] = stored["detail"]
    return shown


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _time_or_none(moment: datetime | None) -> str | None:
    return None if moment is None else _time(moment)


def _id_or_none(value: UUID | None) -> str | None:
    return None if value is None else str(value)


def _trace_id(traceparent: str | None) -> str | None:
    parts = (traceparent or "").split("-")
    return parts[1] if len(parts) == 4 else None
