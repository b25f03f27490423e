"""All writing of a worker process: claims and settlements of all its slots, one transaction at a time, several to each.

There is no timer. Who comes while nobody writes, writes; what arrives meanwhile is written together, by a thread that
goes on until nothing is left. So an idle worker adds neither a delay nor a switch of threads, and a busy one shares its
commits. A transaction that settles steps also claims, for their slots, steps that it has just made ready (`take_on`):
those need no message, no other worker and no commit of their own.
"""

import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Engine

from contracts.assignments import Assignment
from contracts.errors import Unavailable
from contracts.messages import StepRef
from contracts.settlements import Return
from shared_state.attempts import Claims, Settled, Settling, begin_claim, begin_settle, claim_ruled, is_settled
from shared_state.connection import Connection
from shared_state.engine import retrying
from shared_state.outbox import DIRECT_LIMIT, Wakeup
from workers.slots import Slots

log = structlog.get_logger("batcher")


@dataclass(frozen=True)
class Claimed:
    """Steps that are now ours, each with a slot. Their leases count from `asked_at` (monotonic) or later."""

    assignments: Sequence[Assignment]
    asked_at: float


@dataclass(frozen=True)
class Written:
    """What became of a settlement. `done` is false when somebody else had moved on.

    `taken_on` were claimed with it: the first runs in the slot of the step that was settled, the others have their own.
    """

    done: bool
    taken_on: Claimed


@dataclass(frozen=True)
class _Claim:
    refs: Sequence[StepRef]
    then: Callable[[Claimed | Exception], None]


@dataclass(frozen=True)
class _Settle:
    settling: Settling
    take_on: bool
    then: Callable[[Written | Exception], None]


@dataclass(frozen=True)
class _Batch:
    claims: list[_Claim]
    settles: list[_Settle]

    def __len__(self) -> int:
        return len(self.claims) + len(self.settles)

    def split(self) -> Iterable["_Batch"]:
        """One by one, settlements first."""
        for settling in self.settles:
            yield _Batch([], [settling])
        for claiming in self.claims:
            yield _Batch([claiming], [])


class Batcher:
    """Answers come as a call of `then` after the commit, in whichever thread has written: be quick and do not raise.

    `claim` and `settle` may wait for the database; what is asked for in an answer, or `elsewhere`, never does.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        worker: str,
        queues: Iterable[str],
        slots: Slots,
        lease_seconds: float,
        publish: Callable[[list[Wakeup]], None],
    ) -> None:
        self.peers = 1
        """How many worker processes share the queues: of many steps made ready at once this one takes on its share."""
        self._engine = engine
        self._worker = worker
        self._queues = frozenset(queues)
        self._slots = slots
        self._lease_seconds = lease_seconds
        self._publish = publish
        self._lock = threading.Lock()
        self._arrivals: list[_Claim | _Settle] = []
        self._writing = self._closed = False
        self._more = threading.Semaphore(0)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def claim(
        self,
        refs: Sequence[StepRef],
        then: Callable[[Claimed | Exception], None],
        *,
        elsewhere: Callable[[list[Callable[[], None]]], None] | None = None,
    ) -> None:
        """Claim what is to be had of `refs`. Who may not wait for the database says how to have it done `elsewhere`."""
        self._write(_Claim(refs, then), elsewhere)

    def settle(self, settling: Settling, then: Callable[[Written | Exception], None], *, take_on: bool = False) -> None:
        """Write one settlement; `then` gets the error that the data itself causes, if any."""
        self._write(_Settle(settling, take_on, then))

    def stop(self) -> None:
        """Write what has arrived; what comes later is not written any more."""
        self._stopped.set()
        with self._lock:
            idle = not self._writing
            self._closed = self._writing = True
        if idle:
            self._more.release()
        self._thread.join(timeout=10)

    def _write(
        self, request: _Claim | _Settle, elsewhere: Callable[[list[Callable[[], None]]], None] | None = None
    ) -> None:
        """Here and now, or by whoever is writing."""
        with self._lock:
            self._arrivals.append(request)
            if self._writing:
                return
            self._writing = True
        if elsewhere is None:
            self._write_arrived()
        else:
            elsewhere([self._write_arrived])

    def _write_arrived(self) -> None:
        try:
            self._work(self._take()[0])
        finally:
            with self._lock:
                self._writing = more = bool(self._arrivals) or self._closed
            if more:
                self._more.release()

    def _run(self) -> None:
        """Write what arrives while others write. Each ring of `more` hands over the right to."""
        closed = False
        while not closed:
            self._more.acquire()
            batch, closed = self._take()
            while batch:
                self._work(batch)
                batch, closed = self._take()

    def _take(self) -> tuple[_Batch, bool]:
        """What has arrived. Where that is nothing nobody writes any more: until somebody comes, or for good."""
        with self._lock:
            arrived, self._arrivals = self._arrivals, []
            if not arrived:
                self._writing = self._closed
            closed = self._closed
        claims = [each for each in arrived if isinstance(each, _Claim)]
        return _Batch(claims, [each for each in arrived if isinstance(each, _Settle)]), closed

    def _work(self, batch: _Batch) -> None:
        """Until it is written: while Postgres is away there is nothing better to do than to try again."""
        failures = 0
        while True:
            try:
                self._commit(batch)
                return
            except Unavailable as error:
                failures += 1
                log.warning("database.unavailable", text=error.text, waiting=len(batch))
                self._stopped.wait(min(2.0, 0.05 * 2.0 ** min(failures, 6)) * random.uniform(0.5, 1.0))
                if self._stopped.is_set() and failures > 5:
                    _fail(batch, error)
                    return
            except Exception as error:  # one bad row fails a whole batch: find it, and let the others through
                if len(batch) == 1:
                    _fail(batch, error)
                    return
                log.warning("batch.split", error=type(error).__name__, size=len(batch))
                for each in batch.split():
                    self._work(each)
                return

    def _commit(self, batch: _Batch) -> None:
        transaction = _Transaction(self._slots, self._queues, self.peers, batch)
        asked_at = time.monotonic()
        try:
            claims = retrying(
                self._engine,
                lambda connection: transaction.work(connection, self._worker, self._lease_seconds),
            )()
            claimed = [*claims.assignments, *self._claim_ruled(claims.ruled)]
        except BaseException:
            transaction.roll_back()
            raise
        settled = transaction.settled()
        written = settled.done | self._earlier(batch, settled)
        self._publish([each for each in settled.wakeups if (each.step_id, each.epoch) not in transaction.taken])
        by_step = {(assignment.step_id, assignment.epoch): assignment for assignment in claimed}
        for claiming in batch.claims:
            # Popped, so that two messages that name the same step do not both get it.
            mine = [by_step.pop((ref.id, ref.epoch), None) for ref in claiming.refs]
            _answer(claiming.then, Claimed([each for each in mine if each is not None], asked_at))
        taken_on = list(by_step.values())
        self._slots.give(transaction.unneeded(len(taken_on)))
        shares = transaction.share_out(taken_on, written)
        for settling in batch.settles:
            share = shares.get(settling.settling.key, ())
            _answer(settling.then, Written(settling.settling.key in written, Claimed(share, asked_at)))

    def _claim_ruled(self, refs: Sequence[StepRef]) -> list[Assignment]:
        """What a rule may hold back takes another transaction. The first is committed: a failure here must not undo it,
        and what it leaves unclaimed is published again."""
        if not refs:
            return []
        try:
            return retrying(
                self._engine,
                lambda connection: claim_ruled(
                    connection, refs, worker=self._worker, lease_seconds=self._lease_seconds
                ),
            )
        except Unavailable as error:
            log.warning("database.unavailable", text=error.text, claimed=len(refs))
            return []

    def _earlier(self, batch: _Batch, settled: Settled) -> set[tuple[UUID, int]]:
        """What a COMMIT whose answer was lost has written may now seem stale: it is ours all the same."""
        missing = [each.settling.key for each in batch.settles if each.settling.key not in settled.done]
        if not missing:
            return set()
        try:
            return retrying(self._engine, lambda connection: is_settled(connection, missing))
        except Unavailable as error:  # then nobody knows: to be told that one has lost is harmless
            log.warning("database.unavailable", text=error.text, asked=len(missing))
            return set()


class _Transaction:
    """One try after the other at writing a batch: what it settles, and what it takes on.

    Which steps it takes on is decided by what will be ready if all is written as it should. Where it is not, somebody
    else has moved on, and the claim finds nothing, or a step that has become ready again: that is as good.
    """

    def __init__(self, slots: Slots, queues: frozenset[str], peers: int, batch: _Batch) -> None:
        self.taken: frozenset[tuple[UUID, int]] = frozenset()
        """Steps that were to be claimed as they became ready."""
        self.settled: Callable[[], Settled] = lambda: Settled(frozenset(), [])
        self._slots = slots
        self._queues = queues
        self._peers = peers
        self._batch = batch
        self._takers = [each.settling.key for each in batch.settles if each.take_on]
        self._spare = 0

    def work(self, connection: Connection, worker: str, lease_seconds: float) -> Callable[[], Claims]:
        self.roll_back()
        refs = {(ref.id, ref.epoch) for claiming in self._batch.claims for ref in claiming.refs}
        if self._batch.settles:
            settlings = [each.settling for each in self._batch.settles]
            writing = begin_settle(connection, settlings, direct=DIRECT_LIMIT + self._slots.free)
            self.settled = writing.read
            self.taken = frozenset((each.step_id, each.epoch) for each in self._choose(writing.expected))
            refs |= self.taken
        if not refs:
            return lambda: Claims([], [])
        named = [StepRef(id=step_id, epoch=epoch) for step_id, epoch in refs]
        return begin_claim(connection, named, worker=worker, lease_seconds=lease_seconds)

    def roll_back(self) -> None:
        self._slots.give(self._spare)
        self._spare = 0

    def unneeded(self, taken_on: int) -> int:
        """Slots that were taken for more steps than there came."""
        return max(0, self._spare - max(0, taken_on - len(self._takers)))

    def share_out(
        self, taken_on: list[Assignment], written: Set[tuple[UUID, int]]
    ) -> dict[tuple[UUID, int], list[Assignment]]:
        """One to each step that takes one on, those that were settled first; the first gets those that have slots of
        their own as well."""
        takers = sorted(self._takers, key=lambda taker: taker not in written)
        shares = {taker: [each] for taker, each in zip(takers, taken_on, strict=False)}
        if len(taken_on) > len(takers):
            shares[takers[0]].extend(taken_on[len(takers) :])
        return shares

    def _choose(self, ready: list[Wakeup]) -> list[Wakeup]:
        """Which steps to take on: not one that just failed here, it is better off elsewhere."""
        if not self._takers or not ready:
            return []
        failed = {
            each.settling.assignment.step_id
            for each in self._batch.settles
            if isinstance(each.settling.settlement, Return)
        }
        offered = [each for each in ready if each.queue in self._queues and each.step_id not in failed]
        share = -(-len(offered) // self._peers)
        self._spare = self._slots.take(share - len(self._takers))
        return offered[: len(self._takers) + self._spare]


def _fail(batch: _Batch, error: Exception) -> None:
    for claiming in batch.claims:
        _answer(claiming.then, error)
    for settling in batch.settles:
        _answer(settling.then, error)


def _answer(then: Callable[[Any], None], answer: object) -> None:
    try:
        then(answer)
    except Exception:  # the edge of a transaction: one answer's trouble must not cost the others theirs
        log.exception("batcher.answer")
