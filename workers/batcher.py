"""The one database thread of a worker process: claims and settlements of all its slots, several to a transaction.

There is no timer. The thread takes whatever arrived while its last transaction ran, so an idle worker adds no delay
and a busy one shares its commits.
"""

import queue
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine

from contracts.assignments import Assignment
from contracts.errors import Unavailable
from contracts.messages import StepRef
from shared_state.attempts import Settled, Settling, claim, is_settled, settle
from shared_state.engine import retrying
from shared_state.outbox import Wakeup

log = structlog.get_logger("batcher")


@dataclass(frozen=True)
class _Claim:
    refs: Sequence[StepRef]
    answer: Future[list[Assignment]]


@dataclass(frozen=True)
class _Settle:
    settling: Settling
    answer: Future[bool]


@dataclass(frozen=True)
class _Batch:
    claims: list[_Claim]
    settles: list[_Settle]


class Batcher:
    """`claim` and `settle` block their caller until the transaction that holds their part has committed."""

    def __init__(
        self, engine: Engine, *, worker: str, lease_seconds: float, publish: Callable[[list[Wakeup]], None]
    ) -> None:
        self._engine = engine
        self._worker = worker
        self._lease_seconds = lease_seconds
        self._publish = publish
        self._arrivals: queue.SimpleQueue[_Claim | _Settle | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def claim(self, refs: Sequence[StepRef]) -> list[Assignment]:
        """The steps of `refs` that are now ours."""
        request = _Claim(refs, Future())
        self._arrivals.put(request)
        return request.answer.result()

    def settle(self, settling: Settling) -> bool:
        """Whether it was written; False means that somebody else had moved on. Raises what the data itself causes."""
        request = _Settle(settling, Future())
        self._arrivals.put(request)
        return request.answer.result()

    def stop(self) -> None:
        """End the thread after what has arrived."""
        self._stopped.set()
        self._arrivals.put(None)
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while True:
            batch, last = self._take()
            if batch.claims or batch.settles:
                self._work(batch)
            if last:
                return

    def _take(self) -> tuple[_Batch, bool]:
        batch = _Batch([], [])
        request = self._arrivals.get()
        while request is not None:
            if isinstance(request, _Claim):
                batch.claims.append(request)
            else:
                batch.settles.append(request)
            try:
                request = self._arrivals.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _work(self, batch: _Batch) -> None:
        """Until it is written: while Postgres is away there is nothing better to do than to try again."""
        failures = 0
        while True:
            try:
                self._write(batch)
                return
            except Unavailable as error:
                failures += 1
                log.warning("database.unavailable", text=error.text, waiting=len(batch.claims) + len(batch.settles))
                self._stopped.wait(min(2.0, 0.05 * 2.0 ** min(failures, 6)) * random.uniform(0.5, 1.0))
                if self._stopped.is_set() and failures > 5:
                    self._fail(batch, error)
                    return
            except Exception as error:  # one bad row fails a whole batch: find it, and let the others through
                if len(batch.claims) + len(batch.settles) == 1:
                    self._fail(batch, error)
                    return
                log.warning("batch.split", error=type(error).__name__, size=len(batch.settles))
                for settle_request in batch.settles:
                    self._work(_Batch([], [settle_request]))
                for claim_request in batch.claims:
                    self._work(_Batch([claim_request], []))
                return

    def _write(self, batch: _Batch) -> None:
        settlings = [request.settling for request in batch.settles]

        def work(connection: Connection) -> tuple[Settled, list[Assignment]]:
            settled = settle(connection, settlings) if settlings else Settled(frozenset(), [])
            refs = list({(ref.id, ref.epoch): ref for request in batch.claims for ref in request.refs}.values())
            claimed = claim(connection, refs, worker=self._worker, lease_seconds=self._lease_seconds) if refs else []
            return settled, claimed

        settled, claimed = retrying(self._engine, work)
        missing = [settling.key for settling in settlings if settling.key not in settled.done]
        # An earlier COMMIT whose answer was lost may have written them: then they are ours all the same.
        written = settled.done | (is_settled(self._engine, missing) if missing else set())
        self._publish(settled.wakeups)
        for request in batch.settles:
            request.answer.set_result(request.settling.key in written)
        self._hand_out(batch.claims, claimed)

    @staticmethod
    def _hand_out(claims: Sequence[_Claim], claimed: Sequence[Assignment]) -> None:
        by_step: dict[UUID, Assignment] = {assignment.step_id: assignment for assignment in claimed}
        for request in claims:
            # Popped, so that two messages that name the same step do not both get it.
            mine = [by_step.pop(ref.id, None) for ref in request.refs]
            request.answer.set_result([assignment for assignment in mine if assignment is not None])

    @staticmethod
    def _fail(batch: _Batch, error: Exception) -> None:
        for claim_request in batch.claims:
            claim_request.answer.set_exception(error)
        for settle_request in batch.settles:
            settle_request.answer.set_exception(error)
