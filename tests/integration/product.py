"""Drives the product by the model's commands and reads its rows back as the model's: for the refinement test."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Engine

from contracts.assignments import Assignment
from contracts.errors import Conflict, NotFound, Unavailable
from contracts.messages import Message, StepRef
from contracts.settlements import Return, Settlement
from contracts.states import AttemptState, DeadLetterState, QuestionState, StepState
from shared_state import dead_letters, pauses, questions, sweep, tasks
from shared_state.attempts import Held, Settled, Settling, claim, extend, settle
from shared_state.connection import Connection
from shared_state.engine import retrying, transaction
from shared_state.outbox import Wakeup, relay, stage
from shared_state.prune import prune
from shared_state.statements import query
from shared_state.teams import apply as apply_team
from tests.model import commands as c
from tests.model.rows import Attempt, Entry, Letter, Output, Proposal, Question, Ref, Step, Task
from tests.model.teams import PLAIN, PLANNED
from tests.model.transitions import ROOT

LONG_SECONDS = 3600.0
NOBODY = UUID(int=0)
OVERDUE = "clock_timestamp() - interval '2 days'"


class Seen(NamedTuple):
    """What a command came to in the product; `done` is a bare count where the product tells no more, or null."""

    done: frozenset[Ref] | int | None = None
    sent: frozenset[Ref] = frozenset()
    refused: str | None = None


class Derived(NamedTuple):
    """What the product keeps in rows and the model computes."""

    state: str
    step_count: int
    degraded: bool | None
    """Null while the task has not ended: it is decided at the end."""
    error: tuple[str, str | None] | None
    needs_left: dict[str, int]
    """Of blocked steps; nobody reads it of others."""
    inputs: dict[tuple[str, str], int]
    """(step, need): the epoch of the accepted output that satisfies it."""


class Sink:
    def __init__(self, up: bool) -> None:
        self.up = up
        self.refs: list[StepRef] = []

    def publish(self, messages: Sequence[Message]) -> None:
        if not self.up:
            raise Unavailable("the broker is away")
        self.refs.extend(ref for message in messages for ref in message.steps)


class Product:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.tasks: dict[str, UUID] = {}
        self.assignments: dict[Ref, Assignment] = {}
        self._steps: dict[tuple[str, str], UUID] = {}
        self._names: dict[UUID, tuple[str, str]] = {}
        apply_team(engine, "default", PLAIN)
        apply_team(engine, "default", PLANNED)

    def do(self, command: c.Command) -> Seen:
        try:
            return self._do(command)
        except (Conflict, NotFound) as refusal:
            return Seen(refused=type(refusal).__name__)

    def _do(self, command: c.Command) -> Seen:
        match command:
            case c.Submit():
                return self._submit(command)
            case c.Claim():
                return self._claim(command)
            case c.Settle(items=items):
                return self._settle(items)
            case c.Heartbeat(refs=refs):
                held = [Held(self._step_id(ref), ref.epoch) for ref in refs]
                return Seen(self._refs(extend(self.engine, held, lease_seconds=LONG_SECONDS)))
            case c.Sweep():
                count, wakeups = sweep.sweep(self.engine)
                return Seen(count, self._sent(wakeups))
            case c.ExpireWorker(worker=worker):
                return Seen(sent=self._sent(sweep.expire_worker(self.engine, worker)))
            case c.Relay(broker_up=up):
                sink = Sink(up)
                done = relay(self.engine, sink, republish_seconds=60, window=10_000)
                return Seen(done.dispatched + done.republished, self._refs((ref.id, ref.epoch) for ref in sink.refs))
            case c.Stage():
                return Seen(stage(self.engine))
            case c.Cancel(task=name):
                tasks.cancel(self.engine, "default", self.tasks.get(name, NOBODY), "somebody")
                return Seen()
            case c.Pause(task=name):
                target = pauses.Target(task_id=self.tasks.get(name, NOBODY))
                pauses.pause(self.engine, "default", target, "a reason", "somebody")
                return Seen()
            case c.Resume(task=name):
                pauses.resume(self.engine, "default", pauses.Target(task_id=self.tasks.get(name, NOBODY)), "somebody")
                return Seen()
            case c.Redrive(letters=letters, edit=edit):
                ids = [self._id_of("dead_letters", ref) for ref in letters]
                input = {"edit": edit} if edit else None
                redriven = dead_letters.redrive(self.engine, "default", ids, "somebody", edit=input)
                return Seen(len(redriven.redriven), self._sent(redriven.wakeups))
            case c.Discard(letter=ref):
                dead_letters.discard(self.engine, "default", self._id_of("dead_letters", ref), "no use", "somebody")
                return Seen()
            case c.Answer(question=ref):
                question = self._id_of("questions", ref)
                return Seen(sent=self._sent(questions.answer(self.engine, "default", question, "yes", "somebody")))
            case c.Prune(task=name):
                return self._prune(self.tasks.get(name, NOBODY))
            case c.Lapse() | c.Mature() | c.Outdate() | c.PassDeadline():
                self._pass_time(command)
                return Seen()

    def _submit(self, command: c.Submit) -> Seen:
        team = PLAIN if command.plan else PLANNED
        deadline = LONG_SECONDS if command.deadline else None
        submission = tasks.Submission(team=team.name, plan=command.plan, deadline_seconds=deadline)
        submitted = tasks.submit(self.engine, "default", [submission])
        (result,) = submitted.results
        assert isinstance(result, tasks.Created), result
        self.tasks[command.task] = result.task_id
        self._learn_steps()
        return Seen(sent=self._sent(submitted.wakeups))

    def _claim(self, command: c.Claim) -> Seen:
        refs = [StepRef(id=self._step_id(ref), epoch=ref.epoch) for ref in command.refs]

        def work(connection: Connection) -> list[Assignment]:
            return claim(connection, refs, worker=command.worker, lease_seconds=LONG_SECONDS)

        claimed = {self._ref(each.step_id, each.epoch): each for each in retrying(self.engine, work)}
        self.assignments |= claimed
        return Seen(frozenset(claimed))

    def _settle(self, items: Sequence[tuple[Ref, Settlement]]) -> Seen:
        settlings = [Settling(self.assignments[ref], _patient(settlement)) for ref, settlement in items]
        settled: Settled = retrying(self.engine, lambda connection: settle(connection, settlings))
        self._learn_steps()
        return Seen(self._refs(settled.done), self._sent(settled.wakeups))

    def _prune(self, task_id: UUID) -> Seen:
        for time in ("clock_timestamp() - interval '40 days'", "clock_timestamp()"):
            self.query(
                f"update tasks set finished_at = {time} where id = %(id)s and finished_at is not null", id=task_id
            )
            closed = f"update dead_letters set closed_at = {time} where task_id = %(id)s and closed_at is not null"
            self.query(closed, id=task_id)
            prune(self.engine, retention_days=30)
        return Seen()

    def _pass_time(self, command: c.Lapse | c.Mature | c.Outdate | c.PassDeadline) -> None:
        """By moving the time in the row, not the clock."""
        if isinstance(command, c.PassDeadline):
            sql = f"update tasks set deadline_at = {OVERDUE} where id = %(id)s and deadline_at is not null"
            self.query(sql, id=self.tasks.get(command.task, NOBODY))
            return
        table, column, key = {
            c.Lapse: ("steps", "lease_until", "id"),
            c.Mature: ("steps", "due_at", "id"),
            c.Outdate: ("outbox", "published_at", "step_id"),
        }[type(command)]
        sql = f"""update {table} set {column} = {OVERDUE}
            where {key} = %(id)s and epoch = %(epoch)s and {column} is not null"""
        self.query(sql, id=self._step_id(command.ref), epoch=command.ref.epoch)

    def _id_of(self, table: str, ref: Ref) -> UUID:
        sql = f"select id from {table} where step_id = %(id)s and epoch = %(epoch)s"
        rows = self.query(sql, id=self._step_id(ref), epoch=ref.epoch)
        return NOBODY if not rows else UUID(str(rows[0]["id"]))

    def _learn_steps(self) -> None:
        names = {task_id: name for name, task_id in self.tasks.items()}
        for row in self.query("select id, task_id, key from steps"):
            if row["task_id"] in names:
                self._steps[names[row["task_id"]], row["key"]] = row["id"]
                self._names[row["id"]] = (names[row["task_id"]], row["key"])

    def _step_id(self, ref: Ref) -> UUID:
        return self._steps.get((ref.task, ref.key), NOBODY)

    def _ref(self, step_id: UUID, epoch: int) -> Ref:
        return Ref(*self._names[step_id], epoch)

    def _refs(self, keys: Iterable[tuple[UUID, int]]) -> frozenset[Ref]:
        return frozenset(self._ref(step_id, epoch) for step_id, epoch in keys)

    def _sent(self, wakeups: Sequence[Wakeup]) -> frozenset[Ref]:
        return self._refs((wakeup.step_id, wakeup.epoch) for wakeup in wakeups)

    def query(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        with transaction(self.engine) as connection:
            return query(connection, sql, **parameters)

    def observe(self) -> dict[str, tuple[Task, Derived]]:
        """Every row of every task, as the model's rows in a canonical order, and what the model derives."""
        (row,) = self.query(ROWS)
        rows: dict[str, list[dict[str, Any]]] = row["rows"]
        found: dict[str, tuple[Task, Derived]] = {}
        names = {str(task_id): name for name, task_id in self.tasks.items()}
        for task in rows["tasks"]:
            if task["id"] in names:
                mine = {
                    table: [each for each in rows[table] if each["task_id"] == task["id"]]
                    for table in rows
                    if table != "tasks"
                }
                found[names[task["id"]]] = (_task(names[task["id"]], task, mine), _derived(task, mine))
        return found


def _patient(settlement: Settlement) -> Settlement:
    """Backoffs are over when the history says so, not when the clock does."""
    if isinstance(settlement, Return) and settlement.after_seconds > 0:
        return settlement.model_copy(update={"after_seconds": LONG_SECONDS})
    return settlement


def canonical(task: Task) -> Task:
    """Rows in one order, without what only the model knows."""
    return task._replace(
        steps=tuple(sorted(task.steps)),
        attempts=tuple(sorted(each._replace(inputs=()) for each in task.attempts)),
        proposals=tuple(sorted(task.proposals)),
        letters=tuple(sorted(letter._replace(turn=0) for letter in task.letters)),
        questions=tuple(sorted(task.questions)),
    )


def _task(name: str, task: dict[str, Any], rows: dict[str, list[dict[str, Any]]]) -> Task:
    needs: dict[str, list[str]] = {}
    for row in rows["dependencies"]:
        needs.setdefault(row["key"], []).append(row["needs"])
    error = json.loads(task["error"]) if task["error"] else {}
    return Task(
        name,
        planner=any(row["key"] == ROOT for row in rows["steps"]),
        planned=task["planned"],
        steps=tuple(sorted(_step(row, tuple(sorted(needs.get(row["key"], ())))) for row in rows["steps"])),
        attempts=tuple(
            sorted(
                Attempt(r["key"], r["epoch"], r["role"], r["attempt"], r["worker"], AttemptState(r["state"]), r["code"])
                for r in rows["attempts"]
            )
        ),
        outputs=tuple(sorted(Output(row["key"], row["epoch"]) for row in rows["outputs"])),
        proposals=tuple(
            sorted(Proposal(row["key"], row["epoch"], row["state"], row["degraded"]) for row in rows["proposals"])
        ),
        letters=tuple(
            sorted(
                Letter(row["key"], row["epoch"], row["reason"], 0, DeadLetterState(row["state"]))
                for row in rows["dead_letters"]
            )
        ),
        questions=tuple(
            sorted(Question(row["key"], row["epoch"], QuestionState(row["state"])) for row in rows["questions"])
        ),
        entries=tuple(
            sorted(
                [Entry(r["key"], r["epoch"], r["kind"], r["published"], r["late"]) for r in rows["outbox"]]
                + [Entry(r["key"], r["epoch"], r["kind"], published=False, parked=True) for r in rows["parked"]]
            )
        ),
        stopped=error["code"] if task["stopped"] else None,
        deadline=task["deadline"],
        paused=task["paused"],
    )


def _step(row: dict[str, Any], needs: tuple[str, ...]) -> Step:
    return Step(
        key=row["key"], agent=row["agent"], needs=needs, optional=row["optional"], reviewer=row["reviewer"],
        state=StepState(row["state"]), epoch=row["epoch"], attempts=row["attempt_count"],
        rejections=row["rejection_count"], questions=row["question_count"], lease=row["lease"], worker=row["worker"],
        due=row["due"], stopping=row["stopping"], degraded=row["degraded"], feedback=row["feedback"], edit=row["edit"],
    )  # fmt: skip


def _derived(task: dict[str, Any], rows: dict[str, list[dict[str, Any]]]) -> Derived:
    ended = task["finished"]
    error = json.loads(task["error"]) if task["error"] else None
    return Derived(
        state=task["state"],
        step_count=task["step_count"],
        degraded=task["degraded"] if ended else None,
        error=(error["code"], error.get("step")) if error else None,
        needs_left={row["key"]: row["needs_left"] for row in rows["steps"] if row["state"] == "blocked"},
        inputs={
            (row["key"], row["needs"]): row["input_epoch"]
            for row in rows["dependencies"]
            if row["input_epoch"] is not None
        },
    )


def _rows_of(table: str, columns: str) -> str:
    """One table's rows as JSON, each with its task and its step's key."""
    return f"""'{table}', (select coalesce(json_agg(x), '[]') from (
        select r.task_id, s.key, {columns} from {table} r join steps s on s.id = r.step_id) x)"""


ROWS = f"""select json_build_object(
    'tasks', (select coalesce(json_agg(x), '[]') from (
        select id, state, step_count, degraded, error::text as error, planned_at is not null as planned,
            exists (select from rules r where r.task_id = tasks.id and r.ended_at is null) as paused,
            finished_at is not null as finished, cancel_requested_at is not null as stopped,
            case when deadline_at < clock_timestamp() then 'passed' when deadline_at is not null then 'ahead' end
                as deadline
        from tasks) x),
    'steps', (select coalesce(json_agg(x), '[]') from (
        select task_id, key, agent, optional, reviewer, state, epoch, attempt_count, rejection_count, question_count,
            needs_left, worker, degraded is not null as degraded, feedback -> 0 ->> 'code' as feedback,
            coalesce((input ->> 'edit')::int, 0) as edit, cancel_requested_at is not null as stopping,
            case when lease_until < clock_timestamp() then 'lapsed' when lease_until is not null then 'held' end
                as lease,
            case when due_at <= clock_timestamp() then 'over' when due_at is not null then 'later' end as due
        from steps) x),
    'parked', (select coalesce(json_agg(x), '[]') from (
        select k.task_id, s.key, k.epoch, k.kind from parked k
        join steps s on s.id = k.step_id and s.epoch = k.epoch -- what is left of another waits for the relay to go
        where s.state = 'ready' or s.state = 'reviewing' and s.lease_until is null) x),
    'dependencies', (select coalesce(json_agg(x), '[]') from (
        select d.task_id, s.key, n.key as needs, d.input_epoch
        from dependencies d join steps s on s.id = d.step_id join steps n on n.id = d.needs_id) x),
    {_rows_of("attempts", "r.epoch, r.role, r.attempt, r.worker, r.state, r.error ->> 'code' as code")},
    {_rows_of("outputs", "r.epoch")},
    {_rows_of("proposals", "r.epoch, r.state, r.degraded is not null as degraded")},
    {_rows_of("dead_letters", "r.epoch, r.reason, r.state")},
    {_rows_of("questions", "r.epoch, r.state")},
    {
    _rows_of(
        "outbox",
        '''r.epoch, r.kind, r.published_at is not null as published,
        coalesce(r.published_at < clock_timestamp() - interval '1 day', false) as late''',
    )
}
) as rows"""
