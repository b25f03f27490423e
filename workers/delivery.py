"""The one delivery path, for every role: decode, claim, run, gate, decide, settle; then Celery acknowledges.

A message is a hint; the claim decides. Whatever happens in between ends as a settlement in Postgres or, when this
process is cut off, as a lapsed lease that somebody else recovers.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import structlog
from opentelemetry.trace import Span, use_span

from contracts.assignments import Assignment
from contracts.context import Artifacts, Progress
from contracts.errors import Failure, Unavailable
from contracts.messages import SigningKeys, StepRef
from contracts.outcomes import Failed, Outcome
from contracts.policy import decide, decide_failure
from contracts.settlements import Abandon, Return, Settlement
from contracts.teams import Agent, Role, Team
from shared_state import telemetry, transitions
from shared_state.attempt_spans import begin_attempt, end_attempt
from shared_state.attempts import Record, Settling
from shared_state.broker.wire import message_in
from shared_state.crash_points import crash_point
from shared_state.telemetry import Tracing
from workers.artifact_spans import TracedArtifacts
from workers.batcher import Batcher, Claimed, Written
from workers.crew import Crew
from workers.gates.outcome import gate
from workers.heartbeat import Heartbeat, Lease, StopReason
from workers.isolation import Ran
from workers.line import Line, Parcel
from workers.metrics import WorkerMetrics
from workers.slots import Slots

log = structlog.get_logger("delivery")

CHAIN_LIMIT = 10
"""After so many steps taken on one after the other a slot goes back to the queue's turn: others wait there."""


class Runner(Protocol):
    """Runs one agent's body somewhere; never raises."""

    def run(
        self,
        agent: Agent,
        assignment: Assignment,
        *,
        artifacts: Artifacts,
        progress: Progress,
        timeout_seconds: float,
        cancelled: threading.Event,
        then: Callable[[Ran], None],
    ) -> None:
        """Call `then` exactly once, soon after the body's end, the timeout or `cancelled`, in any thread that may wait
        for the database."""
        ...


@dataclass(frozen=True)
class House:
    """What a delivery needs of its worker process."""

    keys: SigningKeys
    batcher: Batcher
    heartbeat: Heartbeat
    runner: Runner
    slots: Slots
    teams: Callable[[str, str], Team]
    """(tenant, digest) -> team, cached."""
    artifacts: Callable[[str], Artifacts]
    """tenant -> its artifacts."""
    hand_back: Callable[[Sequence[StepRef]], None]
    """Let the relay publish these steps again."""
    metrics: WorkerMetrics = field(default_factory=WorkerMetrics)
    tracing: Tracing | None = None


@dataclass(frozen=True)
class _Turn:
    """One attempt in one slot; `place` counts the steps that its slot has taken on since the message."""

    assignment: Assignment
    lease: Lease
    parcel: Parcel
    place: int
    span: Span | None = None


class Delivery:
    """Handles messages; at most as many steps run at once as there are slots, however many a message names."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._slots = house.slots
        self._crew = Crew()
        self._line = Line(house.slots, self._claim, self._hand_back)
        self._draining = threading.Event()

    def handle(self, wire: object, over: Callable[[], None]) -> None:
        """One delivery. Never waits; `over` is called, in any thread, when every step it names is settled or not ours.

        Raises `InvalidMessage`; then `over` is not called.
        """
        refs = message_in(wire, self._house.keys).steps
        crash_point("C06")
        parcel = Parcel(over) if self._house.tracing is None else Parcel(over, telemetry.current())
        self._line.join(parcel, refs)

    def drain(self) -> None:
        """Claim nothing more. What a message still names stays ready in Postgres and is published again."""
        self._draining.set()
        self._line.drain()

    def close(self) -> None:
        self._line.close()
        self._crew.close()

    def _claim(self, parcel: Parcel, refs: Sequence[StepRef]) -> None:
        """Steps that have slots."""
        self._house.batcher.claim(refs, partial(self._claimed, parcel, len(refs)), elsewhere=self._crew.put)

    def _hand_back(self, refs: Sequence[StepRef]) -> None:
        try:
            self._house.hand_back(refs)
        except Unavailable as error:  # what is published and never claimed is published again anyway
            log.warning("hand_back.unavailable", text=error.text, steps=len(refs))

    def _claimed(self, parcel: Parcel, taken: int, answer: Claimed | Exception) -> None:
        if isinstance(answer, Exception):
            log.error("claim.failed", error=type(answer).__name__, steps=taken)
            self._slots.give(taken)
        else:
            crash_point("C07", when=answer.assignments)
            self._slots.give(taken - len(answer.assignments))
            self._begin(answer, parcel, place=1)
        parcel.remove()

    def _begin(self, claimed: Claimed, parcel: Parcel, *, place: int) -> None:
        """Have claimed steps run; each has a slot."""
        hold = self._house.heartbeat.hold
        turns = [_Turn(each, hold(each, since=claimed.asked_at), parcel, place) for each in claimed.assignments]
        if self._house.tracing is not None:
            begin = partial(begin_attempt, self._house.tracing, link=parcel.span)
            turns = [replace(turn, span=begin(turn.assignment)) for turn in turns]
        parcel.add(len(turns))
        self._crew.put([partial(self._run, turn) for turn in turns])

    def _end(self, turn: _Turn) -> None:
        self._house.heartbeat.release(turn.lease)
        self._slots.give(1)
        turn.parcel.remove()

    def _run(self, turn: _Turn) -> None:
        """Everything between claim and settlement; nothing is written here."""
        assignment = turn.assignment
        crash_point("C08")
        try:
            team = self._house.teams(assignment.tenant, assignment.team_digest)
            agent = team.agents.get(assignment.agent)
            if agent is None:
                failure = Failure(code="agent.unknown", text=f"team {team.name!r} has no agent {assignment.agent!r}")
                self._settle(turn, Settling(assignment, decide_failure(assignment, failure, team, 0.0)))
                return
            artifacts = self._house.artifacts(assignment.tenant)
            if self._house.tracing is None or turn.span is None:
                self._start(turn, agent, team, assignment, artifacts)
                return
            # Whatever the attempt is made of hangs from its span; what an agent's own code traces does as well.
            own = assignment.model_copy(update={"traceparent": telemetry.traceparent_of(turn.span)})
            traced = TracedArtifacts(artifacts, self._house.tracing, own.traceparent)
            with use_span(turn.span, record_exception=False, set_status_on_exception=False):
                self._start(turn, agent, team, own, traced)
        except Unavailable as error:
            self._settle(turn, Settling(assignment, _put_off(assignment, error)))
        except Exception:  # the edge of a delivery: whatever went wrong in here, the lease recovers the step
            transitions.broken(assignment)
            self._end(turn)

    def _start(self, turn: _Turn, agent: Agent, team: Team, assignment: Assignment, artifacts: Artifacts) -> None:
        self._house.runner.run(
            agent,
            assignment,
            artifacts=artifacts,
            progress=turn.lease.note,
            timeout_seconds=agent.timeout_seconds,
            cancelled=turn.lease.stop,
            then=partial(self._ran, turn, agent, team),
        )

    def _ran(self, turn: _Turn, agent: Agent, team: Team, ran: Ran) -> None:
        crash_point("C24" if agent.role is Role.REVIEWER else "C14")
        try:
            record = Record(log_tail=ran.log_tail or None, code_hash=ran.code_hash, seconds=ran.seconds)
            settlement = self._decide(turn, agent, team, ran.outcome)
            self._settle(turn, Settling(turn.assignment, settlement, record, team))
        except Exception:  # as above
            transitions.broken(turn.assignment)
            self._end(turn)

    @staticmethod
    def _decide(turn: _Turn, agent: Agent, team: Team, outcome: Outcome) -> Settlement:
        if turn.lease.reason is StopReason.CANCELLED:
            return Abandon()
        if turn.lease.reason is StopReason.STOPPED and isinstance(outcome, Failed):
            failure = Failure(code="worker.stopped", text="the worker was stopped before the step ended")
            return decide_failure(turn.assignment, failure, team, 0.0)
        verdicts = gate(turn.assignment, agent, team, outcome)
        return decide(turn.assignment, outcome, verdicts, team, random.random())

    def _settle(self, turn: _Turn, settling: Settling) -> None:
        if turn.lease.reason is StopReason.LOST:
            transitions.lost(turn.assignment)
            self._end(turn)
            return
        self._write(turn, settling, take_on=turn.place < CHAIN_LIMIT and not self._draining.is_set())

    def _write(self, turn: _Turn, settling: Settling, *, take_on: bool = False) -> None:
        then = partial(self._settled, turn, settling, time.monotonic())
        self._house.batcher.settle(settling, then, take_on=take_on)

    def _settled(self, turn: _Turn, settling: Settling, asked_at: float, answer: Written | Exception) -> None:
        if isinstance(answer, Exception):
            self._refused(turn, settling, answer)
            return
        crash_point("C16")
        (transitions.settled if answer.done else transitions.stale)(settling)
        # The span of an attempt that somebody else has settled is theirs to end.
        if turn.span is not None and answer.done:
            end_attempt(turn.span, settling)
        self._house.metrics.settled(settling, time.monotonic() - asked_at, done=answer.done)
        idle = not answer.taken_on.assignments
        if not answer.done and idle and turn.lease.reason is None and not isinstance(settling.settlement, Abandon):
            # Cancelled between the last heartbeat and the settlement: the attempt ends with its task.
            abandoned = Settling(turn.assignment, Abandon(), settling.record)
            self._write(turn, abandoned)
            return
        if idle:
            self._end(turn)
            return
        self._begin(answer.taken_on, turn.parcel, place=turn.place + 1)
        self._house.heartbeat.release(turn.lease)
        turn.parcel.remove()

    def _refused(self, turn: _Turn, settling: Settling, error: Exception) -> None:
        """Postgres refuses this very output (a value it cannot store): that is the attempt's failure."""
        transitions.not_stored(turn.assignment, error)
        if settling.team is None:
            self._end(turn)
            return
        failure = Failure(code="internal", text=f"the result could not be stored ({type(error).__name__})")
        settlement = decide_failure(turn.assignment, failure, settling.team, random.random())
        self._write(turn, Settling(turn.assignment, settlement))


def _put_off(assignment: Assignment, error: Unavailable) -> Return:
    """The step has done nothing wrong: it goes back without having used up an attempt."""
    failure = Failure(code="worker.stopped", text=f"the step could not begin: {error.text}"[:4000])
    return Return(to="reviewing" if assignment.role is Role.REVIEWER else "ready", failure=failure, counted=False)
