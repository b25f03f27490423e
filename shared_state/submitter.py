"""Submitting from many threads: what comes while others are being written is written together, in one transaction.

There is no timer: who comes while nobody writes for its tenant writes at once, alone. So a submission on an idle
process takes no longer, and on a busy one they share a commit, its statements and the messages that follow.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Engine

from contracts.errors import OrchestratorError, Unavailable
from shared_state import tasks
from shared_state.engine import database_is_away
from shared_state.outbox import Wakeup
from shared_state.tasks import Created, Submission
from shared_state.teams_cache import TeamsCache

TOGETHER_LIMIT = 100
"""So many submissions are written in one transaction; more wait for the next."""
LARGE_STEPS = 100
"""A plan of more steps is written by itself: nobody who brings a small task has to wait for it."""


@dataclass(eq=False)
class _Entry:
    submission: Submission
    traceparent: str | None
    answer: Created | OrchestratorError | None = None
    writes: bool = False
    """Whether it is this one's thread that writes next, for those who wait as well."""
    bell: threading.Lock = field(default_factory=threading.Lock)
    """Held until this one is told something."""


class Submitter:
    """Safe to use from several threads. `publish` is called after each commit, by whoever wrote, with what is to be
    sent and how many submissions that is of; it must not raise."""

    def __init__(self, publish: Callable[[list[Wakeup], int], object], teams: TeamsCache) -> None:
        self._publish = publish
        self._teams = teams
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[_Entry]] = {}
        """By tenant, while somebody writes for it."""

    def submit(self, engine: Engine, tenant: str, submission: Submission, *, traceparent: str | None = None) -> Created:
        """Accept one task. Raises what refuses it, as `tasks.submit` answers it, and `Unavailable` without Postgres."""
        entry = _Entry(submission, traceparent)
        if submission.plan is not None and len(submission.plan.steps) > LARGE_STEPS:
            self._write(engine, tenant, [entry])
        else:
            self._take_turn(engine, tenant, entry)
        if entry.answer is None:  # one of those it was written with could not be: perhaps another
            self._write(engine, tenant, [entry])
        if isinstance(entry.answer, OrchestratorError):
            raise entry.answer
        if entry.answer is None:
            raise AssertionError("unreachable")
        return entry.answer

    def waiting(self, tenant: str) -> int:
        """How many submissions wait for another to be written."""
        with self._lock:
            return len(self._waiting.get(tenant, ()))

    def _take_turn(self, engine: Engine, tenant: str, entry: _Entry) -> None:
        with self._lock:
            waiting = self._waiting.get(tenant)
            if waiting is None:
                self._waiting[tenant] = deque()
            else:
                entry.bell.acquire()
                waiting.append(entry)
        if waiting is not None:
            entry.bell.acquire()
            if not entry.writes:
                return
        self._write_with_others(engine, tenant, entry)

    def _write_with_others(self, engine: Engine, tenant: str, entry: _Entry) -> None:
        with self._lock:
            waiting = self._waiting[tenant]
            others = [waiting.popleft() for _ in range(min(len(waiting), TOGETHER_LIMIT - 1))]
        try:
            self._write(engine, tenant, [entry, *others], written=lambda: self._hand_over(tenant), in_turn=True)
        except Unavailable as error:
            if not database_is_away(error):
                return  # one of them is too large, or waits for somebody else: not at the others' expense
            for each in others:  # each an error of its own, with what caused it
                each.answer = Unavailable(error.text)
                each.answer.__cause__ = error.__cause__
            raise
        except Exception:
            if not others:
                raise
        finally:
            for each in others:
                each.bell.release()

    def _write(
        self,
        engine: Engine,
        tenant: str,
        entries: Sequence[_Entry],
        *,
        written: Callable[[], None] = lambda: None,
        in_turn: bool = False,
    ) -> None:
        """One transaction. `written` is called after it, however it ended, and before anybody is told."""
        try:
            submitted = tasks.submit(
                engine,
                tenant,
                [each.submission for each in entries],
                traceparents=[each.traceparent for each in entries],
                teams=self._teams,
                in_turn=in_turn,
            )
        finally:
            written()
        for each, result in zip(entries, submitted.results, strict=True):
            each.answer = result
        self._publish(submitted.wakeups, len(entries))

    def _hand_over(self, tenant: str) -> None:
        with self._lock:
            waiting = self._waiting[tenant]
            heir = waiting.popleft() if waiting else None
            if heir is None:
                del self._waiting[tenant]
        if heir is not None:
            heir.writes = True
            heir.bell.release()
