"""The one delivery path, for every role: decode, claim, run, gate, decide, settle; then Celery acknowledges.

A message is a hint; the claim decides. Whatever happens in between ends as a settlement in Postgres or, when this
process is cut off, as a lapsed lease that somebody else recovers.
"""

import random
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import structlog

from contracts.assignments import Assignment
from contracts.context import Artifacts, Progress
from contracts.errors import Failure
from contracts.messages import Message, SigningKeys, StepRef, decode
from contracts.outcomes import Done, Failed, Outcome, Planned
from contracts.policy import decide, decide_failure
from contracts.settlements import Abandon, Settlement
from contracts.teams import Agent, Role, Team
from contracts.verdicts import Result, Verdict
from shared_state.attempts import Record, Settling
from shared_state.plan_steps import check_inputs
from workers.batcher import Batcher
from workers.gates import Subject, run_gates
from workers.heartbeat import Heartbeat, Lease, StopReason
from workers.isolation import Ran

log = structlog.get_logger("delivery")


class Runner(Protocol):
    """Runs one agent's body somewhere; never raises, always comes back soon after the timeout or `cancelled`."""

    def run(
        self,
        agent: Agent,
        assignment: Assignment,
        *,
        artifacts: Artifacts,
        progress: Progress,
        timeout_seconds: float,
        cancelled: threading.Event,
    ) -> Ran: ...


@dataclass(frozen=True)
class House:
    """What a delivery needs of its worker process."""

    keys: SigningKeys
    batcher: Batcher
    heartbeat: Heartbeat
    runner: Runner
    teams: Callable[[str, str], Team]
    """(tenant, digest) -> team, cached."""
    artifacts: Callable[[str], Artifacts]
    """tenant -> its artifacts."""


class Delivery:
    """Handles messages; at most `slots` steps run at once in this process, however many a message names."""

    def __init__(self, house: House, *, slots: int) -> None:
        self._house = house
        self._free = threading.Semaphore(slots)
        self._pool = ThreadPoolExecutor(max_workers=slots, thread_name_prefix="step")
        self._draining = threading.Event()

    def handle(self, wire: object) -> None:
        """One delivery: returns, and is acknowledged, when every step it names is settled or not ours."""
        message = decode(wire, self._house.keys)
        waiting = list(message.steps)
        running: list[Future[None]] = []
        while waiting and not self._draining.is_set():
            taken = self._take_slots(len(waiting))
            refs, waiting = waiting[:taken], waiting[taken:]
            assignments = self._claim(message, refs)
            for _ in range(taken - len(assignments)):
                self._free.release()
            running.extend(self._pool.submit(self._attempt, assignment) for assignment in assignments[1:])
            if assignments:
                self._attempt(assignments[0])
        for future in running:
            future.result()

    def drain(self) -> None:
        """Claim nothing more. What a message still names stays ready in Postgres and is published again."""
        self._draining.set()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=False)

    def _take_slots(self, wanted: int) -> int:
        """At least one, waiting for it; more only if they are free right now."""
        self._free.acquire()
        taken = 1
        while taken < wanted and self._free.acquire(blocking=False):
            taken += 1
        return taken

    def _claim(self, message: Message, refs: list[StepRef]) -> list[Assignment]:
        try:
            assignments = self._house.batcher.claim(refs)
        except Exception:
            for _ in refs:
                self._free.release()
            raise
        if len(assignments) < len(refs):
            log.debug("claim.short", kind=message.kind, named=len(refs), claimed=len(assignments))
        return assignments

    def _attempt(self, assignment: Assignment) -> None:
        lease = self._house.heartbeat.hold(assignment)
        try:
            self._settle(self._run(assignment, lease), lease)
        except Exception:  # the edge of a delivery: whatever went wrong in here, the lease recovers the step
            log.exception("delivery.failed", step_id=str(assignment.step_id), epoch=assignment.epoch)
        finally:
            self._house.heartbeat.release(lease)
            self._free.release()

    def _run(self, assignment: Assignment, lease: Lease) -> Settling:
        """Everything between claim and settlement; nothing is written here."""
        team = self._house.teams(assignment.tenant, assignment.team_digest)
        agent = team.agents.get(assignment.agent)
        if agent is None:
            failure = Failure(code="agent.unknown", text=f"team {team.name!r} has no agent {assignment.agent!r}")
            return Settling(assignment, decide_failure(assignment, failure, team, 0.0))
        ran = self._house.runner.run(
            agent,
            assignment,
            artifacts=self._house.artifacts(assignment.tenant),
            progress=lease.note,
            timeout_seconds=agent.timeout_seconds,
            cancelled=lease.stop,
        )
        record = Record(log_tail=ran.log_tail or None, code_hash=ran.code_hash, seconds=ran.seconds)
        return Settling(assignment, self._decide(assignment, lease, agent, team, ran.outcome), record)

    def _decide(self, assignment: Assignment, lease: Lease, agent: Agent, team: Team, outcome: Outcome) -> Settlement:
        if lease.reason is StopReason.CANCELLED:
            return Abandon()
        if lease.reason is StopReason.STOPPED and isinstance(outcome, Failed):
            failure = Failure(code="worker.stopped", text="the worker was stopped before the step ended")
            return decide_failure(assignment, failure, team, 0.0)
        verdicts = _gate(assignment, agent, team, outcome)
        return decide(assignment, outcome, verdicts, team, random.random())

    def _settle(self, settling: Settling, lease: Lease) -> None:
        assignment = settling.assignment
        if lease.reason is StopReason.LOST:
            log.warning("attempt.lost", step_id=str(assignment.step_id), epoch=assignment.epoch)
            return
        try:
            written = self._house.batcher.settle(settling)
        except (
            Exception
        ) as error:  # Postgres refuses this very output (a value it cannot store): that is the attempt's failure
            log.exception("settle.refused", step_id=str(assignment.step_id), epoch=assignment.epoch)
            failure = Failure(code="internal", text=f"the result could not be stored ({type(error).__name__})")
            team = self._house.teams(assignment.tenant, assignment.team_digest)
            settlement = decide_failure(assignment, failure, team, random.random())
            written = self._house.batcher.settle(Settling(assignment, settlement))
        log.info(
            "attempt.settled" if written else "attempt.stale",
            task_id=str(assignment.task_id),
            step_id=str(assignment.step_id),
            epoch=assignment.epoch,
            agent=assignment.agent,
            outcome=settling.settlement.type,
        )
        if not written and lease.reason is None:
            # Cancelled between the last heartbeat and the settlement: the attempt ends with its task.
            self._house.batcher.settle(Settling(assignment, Abandon(), settling.record))


def _gate(assignment: Assignment, agent: Agent, team: Team, outcome: Outcome) -> tuple[Verdict, ...]:
    """Run the gates on what was made; only an output or a plan has any."""
    match outcome:
        case Done(output=output):
            schemas = team.schemas.get(assignment.agent)
            subject = Subject(
                output=output,
                input=assignment.input,
                inputs=assignment.inputs,
                agent=assignment.agent,
                output_schema=schemas.output if schemas is not None else None,
                output_bytes_limit=team.bounds.output_bytes,
            )
            return run_gates(agent.gates, subject)
        case Planned(plan=plan) if assignment.role is Role.PLANNER:
            known = [step for step in plan.steps if step.agent in team.agents]
            reasons = tuple(check_inputs(known, team))
            return (Verdict(gate="plan", result=Result.FAIL if reasons else Result.PASS, reasons=reasons),)
        case _:
            return ()
