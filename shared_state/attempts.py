"""Attempts: claim steps, keep their leases, settle what came of them. The only writer of attempts, and fenced.

Every function takes lists and is one transaction. A step that somebody else moved on is simply missing from the
answer: that is the race lost, never an error.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Engine

from contracts.assignments import Answer, Assignment
from contracts.messages import StepRef
from contracts.plans import Plan
from contracts.settlements import (
    Abandon,
    Accept,
    AcceptPlan,
    Approve,
    Ask,
    Bury,
    Propose,
    Return,
    Settlement,
)  # fmt: skip
from contracts.teams import Role, Team
from contracts.topology import MessageKind, queue_of
from contracts.verdicts import Reason
from shared_state.connection import Connection, Reply
from shared_state.crash_points import crash_point
from shared_state.engine import LostRace, new_id, retrying
from shared_state.outbox import DIRECT_LIMIT, Wakeup, wake_relay, wakeups_of
from shared_state.plan_steps import Creating, begin_steps, plan_rows
from shared_state.rules import judge, park
from shared_state.statements import json_text, query, run, send
from shared_state.teams import load_team

_STATEMENTS: Mapping[type[Settlement], str] = {
    Accept: "accept",
    Approve: "approve",
    Propose: "propose",
    Return: "return",
    Bury: "bury",
    Ask: "ask",
    Abandon: "abandon",
    AcceptPlan: "accept_plan",
}
_LOCK_OUT_OF_ORDER = """select id from tasks where id = any (%(ids)s::uuid[]) order by id
    for no key update skip locked"""
"""Steps are locked already, so this must not wait: whoever holds the task may be waiting for them."""


@dataclass(frozen=True)
class Record:
    """Facts about how an attempt ran, kept with it."""

    log_tail: str | None = None
    code_hash: str | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Settling:
    """One attempt to settle: who it is, what was decided, and how it ran.

    `team` is the attempt's, from whoever has it at hand; a plan that is accepted needs it, and else it is read.
    """

    assignment: Assignment
    settlement: Settlement
    record: Record = field(default_factory=Record)
    team: Team | None = None

    @property
    def key(self) -> tuple[UUID, int]:
        return self.assignment.step_id, self.assignment.epoch


@dataclass(frozen=True)
class Settled:
    """`done` are the attempts whose settlement was written; the others were stale. `wakeups` are to be published."""

    done: frozenset[tuple[UUID, int]]
    wakeups: list[Wakeup]


@dataclass(frozen=True)
class Writing:
    """A settlement on its way. `expected` are the entries to be published, before it is known whether all was written;
    `read` says so, also after the commit."""

    read: Callable[[], Settled]
    expected: list[Wakeup]


@dataclass(frozen=True)
class _Woken:
    wakeups: list[Wakeup]
    stranded: set[UUID]
    """Tasks of which a step may have been the last one open."""


@dataclass(frozen=True)
class Claims:
    """What a claim has taken. `ruled` are those of the rest that a rule may hold back: `claim_ruled` finds out."""

    assignments: list[Assignment]
    ruled: list[StepRef]


@dataclass(frozen=True)
class Held:
    """A lease this process holds, with the newest progress of its attempt (JSON) if there is any."""

    step_id: UUID
    epoch: int
    progress: str | None = None


def claim(connection: Connection, refs: Sequence[StepRef], *, worker: str, lease_seconds: float) -> list[Assignment]:
    """Take the named steps, in the caller's transaction; those that are not to be had are missing from the answer."""
    claimed = begin_claim(connection, refs, worker=worker, lease_seconds=lease_seconds)()
    if not claimed.ruled:
        return claimed.assignments
    return [*claimed.assignments, *claim_ruled(connection, claimed.ruled, worker=worker, lease_seconds=lease_seconds)]


def begin_claim(
    connection: Connection, refs: Sequence[StepRef], *, worker: str, lease_seconds: float
) -> Callable[[], Claims]:
    """The same, as a transaction's last statement: the answer may be read after the commit, which spares a wait."""
    read = _send_claim(connection, refs, worker, lease_seconds, judged=False)

    def answer() -> Claims:
        rows = read()
        assignments = [assignment_of(row) for row in rows if row["step_id"] is not None]
        if not any(row["ruled"] for row in rows):
            return Claims(assignments, [])
        taken = {assignment.step_id for assignment in assignments}
        return Claims(assignments, [ref for ref in refs if ref.id not in taken])

    return answer


def claim_ruled(
    connection: Connection, refs: Sequence[StepRef], *, worker: str, lease_seconds: float
) -> list[Assignment]:
    """Of steps that a rule may hold back, take those that none does; the others' entries are parked."""
    judged = judge(connection, [ref.id for ref in refs])
    free = [ref for ref in refs if ref.id in judged.free]
    read = _send_claim(connection, free, worker, lease_seconds, judged=True) if free else list
    if park(connection, judged.held):
        wake_relay(connection)  # a place may have become free just now
    return [assignment_of(row) for row in read()]


def _send_claim(
    connection: Connection, refs: Sequence[StepRef], worker: str, lease_seconds: float, *, judged: bool
) -> Callable[[], list[dict[str, Any]]]:
    sent = send(
        connection,
        "claim",
        ids=[ref.id for ref in refs],
        epochs=[ref.epoch for ref in refs],
        worker=worker,
        lease_seconds=lease_seconds,
        judged=judged,
    )
    crash_point("C09")
    return sent.rows


def extend(engine: Engine, held: Sequence[Held], *, lease_seconds: float) -> dict[tuple[UUID, int], bool]:
    """Lengthen leases. Maps what is still held to whether its task was cancelled; what is missing is lost."""
    rows = retrying(
        engine,
        lambda connection: run(
            connection,
            "heartbeat",
            ids=[each.step_id for each in held],
            epochs=[each.epoch for each in held],
            progress=[each.progress for each in held],
            lease_seconds=lease_seconds,
        ),
    )
    return {(row["id"], row["epoch"]): row["cancelled"] for row in rows}


def settle(connection: Connection, settlings: Sequence[Settling], *, direct: int = DIRECT_LIMIT) -> Settled:
    """Write decisions, in the caller's transaction. Lock order: tasks by id, steps by id, then what they wake.

    Of what becomes ready, at most `direct` steps a task are in the answer, for the caller to publish or to claim.
    """
    return begin_settle(connection, settlings, direct=direct).read()


def begin_settle(connection: Connection, settlings: Sequence[Settling], *, direct: int = DIRECT_LIMIT) -> Writing:
    """The same without waiting, where nobody needs what is settled: what then becomes ready is known beforehand, and
    may be claimed in the same piece."""
    groups: dict[type[Settlement], list[Settling]] = defaultdict(list)
    for settling in settlings:
        groups[type(settling.settlement)].append(settling)
    ending = _tasks_to_lock(settlings)
    if ending:
        send(connection, "lock_tasks", ids=ending)
    sent = {kind: _send(connection, name, groups[kind]) for kind, name in _STATEMENTS.items() if groups[kind]}
    plans = groups[AcceptPlan]
    created = _grow(connection, plans, direct) if plans else Creating([], list)
    crash_point("C23", when=plans)
    woken = _wake(connection, groups, sent, ending, direct) if _may_wake(groups) else _Woken([], set())
    # A task that has just got steps is not over; one whose plan is empty is.
    grown = {each.assignment.task_id for each in plans if _plan_of(each).steps}
    over = sorted({*ending, *woken.stranded} - grown)
    if over:
        send(connection, "settle_tasks", ids=over)
    if any(_frees_a_place(each) for each in settlings):
        wake_relay(connection)
    crash_point("C15")

    def read() -> Settled:
        rows = {kind: reply.rows() for kind, reply in sent.items()}
        done = frozenset((row["id"], row["epoch"]) for answer in rows.values() for row in answer)
        again = [*rows.get(Propose, ()), *rows.get(Return, ())]
        wakeups = [_wakeup_of(row) for row in again if row["published"]]
        return Settled(done, [*wakeups, *created.read(), *woken.wakeups])

    reviews = [_review_of(each, each.team) for each in groups[Propose] if each.team]
    if _may_wake(groups) or groups[Return] or len(reviews) < len(groups[Propose]):
        return Writing(read, read().wakeups)
    return Writing(read, [*reviews, *created.expected])


def is_settled(connection: Connection, keys: Sequence[tuple[UUID, int]]) -> set[tuple[UUID, int]]:
    """Which attempts ended by a settlement: asked after a COMMIT whose answer was lost, when both are possible."""
    sql = """select a.step_id, a.epoch from attempts a
        join unnest(%(ids)s::uuid[], %(epochs)s::bigint[]) as w (id, epoch)
        on a.step_id = w.id and a.epoch = w.epoch where a.state not in ('running', 'expired', 'cancelled')"""
    rows = query(connection, sql, ids=[key[0] for key in keys], epochs=[key[1] for key in keys])
    return {(row["step_id"], row["epoch"]) for row in rows}


def assignment_of(row: Mapping[str, Any]) -> Assignment:
    """From a row of `claim`, or of `expired`, which knows only who the attempt is and how often it was tried."""
    return Assignment(
        tenant=row["tenant_id"],
        task_id=row["task_id"],
        step_id=row["step_id"],
        epoch=row["epoch"],
        key=row["key"],
        role=Role(row["role"]),
        agent=row["agent"],
        team_digest=row["team_digest"],
        attempt=row["attempt_count"],
        rejections=row["rejection_count"],
        questions=row["question_count"],
        goal=row.get("goal", ""),
        input=row.get("input"),
        inputs=row.get("inputs") or {},
        proposal=row.get("proposal"),
        feedback=tuple(Reason.model_validate(each) for each in row.get("feedback") or ()),
        answers=tuple(Answer.model_validate(each) for each in row.get("answers") or ()),
        reviewer=row.get("reviewer"),
        has_dependents=row["has_dependents"],
        task_deadline_at=row.get("task_deadline_at"),
        traceparent=row.get("traceparent"),
        waited_seconds=row.get("waited_seconds", 0.0),
    )


def _send(connection: Connection, name: str, settlings: Sequence[Settling]) -> Reply:
    return send(connection, name, items=json_text([_item(settling) for settling in settlings]))


def _item(settling: Settling) -> dict[str, Any]:
    """The JSON row of one settlement; every statement picks the columns it knows."""
    assignment, settlement, record = settling.assignment, settling.settlement, settling.record
    item: dict[str, Any] = {
        "id": assignment.step_id,
        "epoch": assignment.epoch,
        "log_tail": record.log_tail,
        "code_hash": record.code_hash,
        "seconds": record.seconds,
    }
    match settlement:
        case Accept() | Propose():
            item |= {"output": settlement.output, "degraded": settlement.degraded, "verdicts": settlement.verdicts}
        case Return():
            item |= {
                "target": settlement.to,
                "after_seconds": settlement.after_seconds,
                "rejected": settlement.rejected,
                "counted": settlement.counted,
                "expired": settlement.expired,
                "attempt_state": _attempt_state(assignment, settlement),
                "failure": settlement.failure,
                "output": settlement.output,
                "feedback": settlement.feedback or None,
                "verdicts": settlement.verdicts,
            }
        case Bury():
            item |= {
                "expired": settlement.expired,
                "dead_letter_id": new_id(),
                "failure": settlement.failure,
                "output": settlement.output,
                "feedback": settlement.feedback or None,
                "verdicts": settlement.verdicts,
            }
        case Ask():
            item |= {"question_id": new_id(), "text": settlement.text}
        case Abandon():
            item |= {"expired": settlement.expired}
        case AcceptPlan():
            item |= {"count": len(settlement.plan.steps), "verdicts": settlement.verdicts}
        case Approve():
            pass
    return item


def _attempt_state(assignment: Assignment, settlement: Return) -> str:
    if settlement.expired:
        return "expired"
    # A reviewer that refuses an output has done its own work well.
    return "succeeded" if settlement.rejected and assignment.role is Role.REVIEWER else "failed"


def _frees_a_place(settling: Settling) -> bool:
    """Whether its agent is limited, so that another step may begin now; where the team is not at hand, or of a version
    without the limit, the relay's next look finds out."""
    agent = settling.team.agents.get(settling.assignment.agent) if settling.team else None
    return agent is not None and agent.concurrency is not None


def _tasks_to_lock(settlings: Sequence[Settling]) -> list[UUID]:
    """Tasks that a settlement may end, grow or stop. A success that others need is no task's last step."""
    ids = {
        settling.assignment.task_id
        for settling in settlings
        if not isinstance(settling.settlement, Return | Propose)
        and not (isinstance(settling.settlement, Accept | Approve) and settling.assignment.has_dependents)
    }
    return sorted(ids)


def _may_wake(groups: Mapping[type[Settlement], Sequence[Settling]]) -> bool:
    """Whether what happens to other steps depends on what is settled."""
    accepted = (each for kind in (Accept, Approve) for each in groups.get(kind, ()))
    return bool(groups.get(Bury)) or any(each.assignment.has_dependents for each in accepted)


def _wake(
    connection: Connection,
    groups: Mapping[type[Settlement], Sequence[Settling]],
    sent: Mapping[type[Settlement], Reply],
    locked: Sequence[UUID],
    direct: int,
) -> _Woken:
    """Count settled steps off in those that need them; skip what needs a step that was given up."""
    rows = {kind: reply.rows() for kind, reply in sent.items() if kind in (Accept, Approve, Bury)}
    freed = [row["id"] for kind in (Accept, Approve) for row in rows.get(kind, ())]
    freed += [row["id"] for row in rows.get(Bury, ()) if row["optional"]]
    doomed = [row["id"] for row in rows.get(Bury, ()) if not row["optional"]]
    if doomed:
        send(connection, "skip", ids=doomed)
    settled = [each for kind in (Accept, Approve, Bury) for each in groups.get(kind, ())]
    if not freed or not any(each.assignment.has_dependents for each in settled):
        return _Woken([], set())
    woken = run(connection, "wake", ids=freed, direct=direct)
    wakeups = wakeups_of(connection, [row for row in woken if row["step_id"] is not None])
    stranded = {row["stranded_task_id"] for row in woken if row["step_id"] is None} - set(locked)
    if stranded and len(query(connection, _LOCK_OUT_OF_ORDER, ids=sorted(stranded))) < len(stranded):
        raise LostRace("a task whose last step this may be is held by somebody else")
    return _Woken(wakeups, stranded)


def _review_of(settling: Settling, team: Team) -> Wakeup:
    """The queue entry that a proposal makes, if it is written."""
    assignment = settling.assignment
    queue = queue_of(team.agents[assignment.reviewer or ""])
    return Wakeup(assignment.step_id, assignment.epoch + 1, queue, MessageKind.REVIEW, assignment.traceparent)


def _grow(connection: Connection, accepted: Sequence[Settling], direct: int) -> Creating:
    """Create the steps of accepted plans."""
    steps: list[dict[str, Any]] = []
    needs: list[dict[str, Any]] = []
    for each in accepted:
        assignment = each.assignment
        team = each.team or load_team(connection, assignment.tenant, assignment.team_digest)
        more_steps, more_needs = plan_rows(
            _plan_of(each), team, assignment.tenant, assignment.task_id, assignment.step_id
        )
        steps += more_steps
        needs += more_needs
    planners = [each.assignment.step_id for each in accepted]
    return begin_steps(connection, steps, needs, planners=planners, direct=direct)


def _plan_of(settling: Settling) -> Plan:
    if not isinstance(settling.settlement, AcceptPlan):
        raise TypeError("only an accepted plan is expanded")
    return settling.settlement.plan


def _wakeup_of(row: Mapping[str, Any]) -> Wakeup:
    return Wakeup(row["id"], row["next_epoch"], row["queue"], MessageKind(row["kind"]), row["traceparent"])
