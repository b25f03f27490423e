"""A steady load: tasks of several shapes, submitted by the clock, each known to be accepted or not."""

import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

import psycopg

from contracts.errors import OrchestratorError, Unavailable
from contracts.plans import Plan
from shared_state.tasks import Submission

TEAM = "faults"
RETRY_SECONDS = 0.2


class Door(Protocol):
    """The way tasks come in."""

    def submit(self, submission: Submission) -> UUID:
        """The accepted task's id. Raises `Unavailable` when it may or may not have been accepted: ask again."""
        ...


Make = Callable[[dict[str, Any]], Plan | None]
"""From the input of every step, the plan to bring along; null leaves it to the planner."""


def chain(given: dict[str, Any], *, length: int = 4, agent: str = "work") -> Plan:
    ids = [f"s{number}" for number in range(length)]
    return _plan(
        {"id": each, "agent": agent, "input": given, "needs": ids[place - 1 : place] if place else []}
        for place, each in enumerate(ids)
    )


def fan(given: dict[str, Any], *, width: int = 6) -> Plan:
    leaves = [{"id": f"leaf{number}", "agent": "work", "input": given} for number in range(width)]
    return _plan([*leaves, {"id": "join", "agent": "work", "input": given, "needs": [leaf["id"] for leaf in leaves]}])


def wide(given: dict[str, Any]) -> Plan:
    """More steps at once than whoever commits publishes itself: the relay has to bring the others."""
    return fan(given, width=45)


def apart(given: dict[str, Any]) -> Plan:
    return chain(given, length=2, agent="work_apart")


def reviewed(given: dict[str, Any]) -> Plan:
    draft = {"id": "draft", "agent": "draft", "input": given}
    return _plan([draft, {"id": "use", "agent": "work", "input": given, "needs": ["draft"]}])


def planned(_given: dict[str, Any]) -> None:
    return None


MIXED: tuple[Make, ...] = (chain, fan, reviewed, planned)
WITH_PROCESSES: tuple[Make, ...] = (chain, fan, reviewed, apart, planned)


@dataclass
class Ordered:
    """One submission. `task_id` is null until it is known to be accepted; `state` until the task has ended."""

    key: str
    sent_at: float
    wanted_state: str = "succeeded"
    accepted_at: float | None = None
    task_id: UUID | None = None
    state: str | None = None


@dataclass
class Load:
    """`rate` tasks a second while fewer than `limit` are open. An ambiguous answer is asked for again, by its key."""

    door: Door
    note_ends: Callable[[Sequence["Ordered"]], None]
    """Writes the states of tasks that have ended into their orders; may fail while the database is away."""
    ledger: str
    chance: random.Random
    rate: float = 6.0
    limit: int = 60
    shapes: Sequence[Make] = MIXED
    nap_seconds: tuple[float, float] = (0.02, 0.3)
    tries_seconds: float = 120.0
    orders: list[Ordered] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Errors of submissions that were none of the product's own."""
    refusals: int = 0
    """How often a submission had to be sent again."""
    slowest_seconds: list[float] = field(default_factory=list)
    """How long each submission took until it was accepted."""

    def __post_init__(self) -> None:
        self._numbers = itertools.count()
        self._prefix = f"{self.chance.getrandbits(64):x}"
        self._stop = threading.Event()
        self._abandon = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """May be started again after a stop."""
        self._stop.clear()
        self._abandon.clear()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 60.0) -> None:
        """No new tasks; what was sent is asked for until it is known, or `seconds` have passed."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(seconds)
            self._abandon.set()
            self._thread.join(10)

    def given(self, **changes: Any) -> dict[str, Any]:
        """The input of a step."""
        return {"ledger": self.ledger, "nap_seconds": round(self.chance.uniform(*self.nap_seconds), 3), **changes}

    def put(self, make: Make, *, wanted_state: str = "succeeded", **changes: Any) -> Ordered:
        """Submit one task now, until it is accepted. Raises `Unavailable` when it was not to be had in time."""
        given = self.given(**changes)
        order = Ordered(f"{self._prefix}-{next(self._numbers)}", time.time(), wanted_state)
        with self._lock:
            self.orders.append(order)
        submission = Submission(team=TEAM, plan=make(given), input=given, idempotency_key=order.key)
        deadline = time.monotonic() + self.tries_seconds
        while True:
            try:
                order.task_id = self.door.submit(submission)
            except Unavailable:
                self.refusals += 1
                if time.monotonic() > deadline or self._abandon.is_set():
                    raise
                time.sleep(RETRY_SECONDS)
            else:
                order.accepted_at = time.time()
                self.slowest_seconds.append(order.accepted_at - order.sent_at)
                return order

    def open_orders(self) -> list[Ordered]:
        with self._lock:
            return [order for order in self.orders if order.state is None]

    def accepted(self) -> list[Ordered]:
        with self._lock:
            return [order for order in self.orders if order.task_id is not None]

    def _run(self) -> None:
        due = time.monotonic()
        for make in itertools.cycle(self.shapes):
            while len(self.open_orders()) >= self.limit:
                with suppress(psycopg.Error):
                    self.note_ends(self.open_orders())
                if self._stop.wait(0.2):
                    return
                due = time.monotonic()
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return
            due = max(due + 1 / self.rate, time.monotonic() - 1.0)
            try:
                self.put(make)
            except OrchestratorError:
                continue  # never accepted: nothing was promised
            except Exception as error:  # nothing but our own errors may come out of a submission
                self.broken.append(f"{type(error).__name__}: {error}")


def _plan(steps: Any) -> Plan:
    return Plan.model_validate({"steps": list(steps)})
