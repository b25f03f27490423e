"""The outbox: one row per ready step, made in the transaction that makes it ready and deleted by the claim.

Whoever commits publishes its own rows (`publish`); the relay (`relay`) gives waiting rows their fair turn and
publishes again what was published long ago and never claimed. Rows of steps that may not begin, because of a pause or
a limit, are parked: apart from the others, until the relay releases or admits them.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import Engine

from contracts.errors import Unavailable
from contracts.messages import Message, StepRef, chunk_refs
from contracts.topology import MessageKind
from shared_state.connection import Connection
from shared_state.crash_points import crash_point
from shared_state.engine import new_id, transaction
from shared_state.rules import judge, park
from shared_state.statements import query, run

DIRECT_LIMIT = 20
"""How many ready steps of one task a committing process publishes itself; the rest wait for their turn."""
MESSAGES_AT_ONCE = 4
"""Steps of one queue that become ready together travel in about so many messages, so that every worker gets some."""
TOGETHER = 3
"""Of what several callers made ready at one moment, so much travels in one message: receiving one costs a worker more
than a short step does, and where submissions come so thick that they meet, each worker gets some anyway."""
CHANNEL = "orchestrator_outbox"
"""LISTEN/NOTIFY channel that wakes the relay when rows wait for it."""
RELEASE_LIMIT = 1000
"""How many parked rows of one pause that has ended one pass of the relay puts back."""
_RELAY_LOCK = 0x72656C61
_LOOK = """select pg_try_advisory_xact_lock(%(key)s) as mine,
    exists (select from parked where step_id > '00000000-0000-0000-0000-000000000000') as parked"""


@dataclass(frozen=True)
class Wakeup:
    """A published outbox row: what a message has to name."""

    step_id: UUID
    epoch: int
    queue: str
    kind: MessageKind
    traceparent: str | None


class MessagePublisher(Protocol):
    def publish(self, messages: Sequence[Message]) -> None:
        """Send all, or raise `Unavailable`; some may then have been sent."""
        ...


@dataclass(frozen=True)
class RelayPass:
    """What one pass of the relay did, in rows. `acted` is False when another instance was at it.

    `admitted` were parked for a place of their limited agent and got one; `parked` were to be sent and may not begin.
    """

    acted: bool
    dispatched: int = 0
    republished: int = 0
    admitted: int = 0
    parked: int = 0

    @property
    def found_work(self) -> bool:
        """Whether there may be more of it: what is published again is not due again for long."""
        return self.dispatched + self.admitted + self.parked > 0


def wakeups_of(connection: Connection, rows: Sequence[Any]) -> list[Wakeup]:
    """The rows this transaction publishes itself; wakes the relay (at commit) when some are left for it."""
    wakeups = [wakeup_of(row) for row in rows if row["published"]]
    if len(wakeups) < len(rows):
        wake_relay(connection)
    return wakeups


def wake_relay(connection: Connection) -> None:
    """At the commit."""
    connection.send("select pg_notify(%(channel)s, '')", {"channel": CHANNEL})


def publish(publisher: MessagePublisher, wakeups: Sequence[Wakeup], *, together: int = 1) -> bool:
    """Send messages for committed rows. False when the broker is away: the relay sends them later, nothing is lost."""
    if not wakeups:
        return True
    try:
        publisher.publish(messages_for(wakeups, together=together))
    except Unavailable:
        return False
    return True


def messages_for(wakeups: Sequence[Wakeup], *, together: int = 1) -> list[Message]:
    """`together` steps a message while there are few; more when there is a backlog of one queue."""
    groups: dict[tuple[str, MessageKind], list[Wakeup]] = defaultdict(list)
    for wakeup in wakeups:
        groups[wakeup.queue, wakeup.kind].append(wakeup)
    messages = []
    for (queue, kind), group in groups.items():
        refs = [StepRef(id=wakeup.step_id, epoch=wakeup.epoch) for wakeup in group]
        contexts = iter(group)
        for chunk in chunk_refs(refs, max(together, -(-len(refs) // MESSAGES_AT_ONCE))):
            # A message has one context, or none where its steps are of several.
            traceparents = {next(contexts).traceparent for _ in chunk}
            traceparent = traceparents.pop() if len(traceparents) == 1 else None
            messages.append(Message(id=new_id(), kind=kind, queue=queue, steps=chunk, traceparent=traceparent))
    return messages


def relay(engine: Engine, publisher: MessagePublisher, *, republish_seconds: float, window: int) -> RelayPass:
    """One pass: choose under a lock that only one instance holds, commit, then publish.

    What could not be published waits again, as if it had never been chosen: an outage of the broker must not use up
    the patience that is meant for messages that may still arrive.
    """
    with transaction(engine) as connection:
        (look,) = query(connection, _LOOK, key=_RELAY_LOCK)
        if not look["mine"]:
            return RelayPass(acted=False)
        if look["parked"]:
            run(connection, "release", limit=RELEASE_LIMIT)
        late = run(connection, "republish", after_seconds=republish_seconds, limit=500)
        waiting = run(connection, "dispatch", window=window)
        parked = _park(connection, [row["step_id"] for row in (*late, *waiting)])
        admitted = run(connection, "admit") if look["parked"] or parked else []
        crash_point("C04", when=late or waiting or admitted)
    late, waiting = ([row for row in rows if row["step_id"] not in parked] for rows in (late, waiting))
    wakeups = [wakeup_of(row) for row in (*late, *waiting, *admitted)]
    crash_point("C05", when=wakeups)
    if not publish(publisher, wakeups):
        crash_point("C29")
        with transaction(engine) as connection:
            run(
                connection, "unpublish", ids=[each.step_id for each in wakeups], epochs=[each.epoch for each in wakeups]
            )
        return RelayPass(acted=True)
    crash_point("C28", when=wakeups)
    return RelayPass(True, len(waiting), len(late), len(admitted), len(parked))


def _park(connection: Connection, ids: Sequence[UUID]) -> frozenset[UUID]:
    """Those of the chosen that may not begin: nobody is sent for them."""
    return park(connection, judge(connection, ids).held) if ids else frozenset()


def hand_back(engine: Engine, refs: Sequence[StepRef]) -> None:
    """Steps that a message named and its receiver has no room for: the relay gives them another turn."""
    with transaction(engine) as connection:
        run(connection, "unpublish", ids=[ref.id for ref in refs], epochs=[ref.epoch for ref in refs])
        wake_relay(connection)
        crash_point("C43")


def stage(engine: Engine, limit: int = 1000) -> int:
    """Queue the steps whose backoff is over. Returns how many."""
    with transaction(engine) as connection:
        staged = run(connection, "stage", limit=limit)
        if staged:
            wake_relay(connection)
        crash_point("C33", when=staged)
    return len(staged)


def wakeup_of(row: Any) -> Wakeup:
    return Wakeup(row["step_id"], row["epoch"], row["queue"], MessageKind(row["kind"]), row["traceparent"])
