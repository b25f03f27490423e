"""Crash points: the places beside every COMMIT where a process may be made to die, to prove that somebody recovers.

`crash_point("C07")` does nothing unless `ORCHESTRATOR_CRASH_AT` names that point and `ORCHESTRATOR_CRASH_PERMITTED` is
set, as `orchestrator dev` does for what it starts, and tests for what they start. Then the process ends at once, as if
killed: nothing is flushed, rolled back or said to anyone. `ORCHESTRATOR_CRASH_AT=C07:3` dies at the third passage.

Nothing but `POINTS` names a point. C12, C13, C19 and C26 are kept for what this version does not have: effects outside,
published interfaces, secrets. A COMMIT whose answer is lost is no place in a program; the faults have
it. A transaction of one statement with nothing before or after it (a heartbeat, a note, an edit) has no point: it
happened or it did not.
"""

import itertools
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from contracts.errors import Misconfigured

CRASH_AT = "ORCHESTRATOR_CRASH_AT"
CRASH_PERMITTED = "ORCHESTRATOR_CRASH_PERMITTED"
EXIT_CODE = 137
"""As a shell tells of a process that was killed."""


class Point(NamedTuple):
    """Between which two things it lies, and who puts right what a crash there leaves."""

    where: str
    recovered_by: str


POINTS: Mapping[str, Point] = {
    "C01": Point("submission: written, before COMMIT", "nothing is left; the client sends it again with its key"),
    "C02": Point("submission: committed, before the reply", "the same key gets the same task"),
    "C03": Point("API: committed, before the wakeups are published", "the relay publishes again"),
    "C04": Point("relay: rows chosen, before COMMIT", "the next pass chooses them"),
    "C05": Point("relay: rows noted as published, nothing sent", "the relay publishes again what nobody claims"),
    "C06": Point("worker: message received, before the claim", "the relay publishes again what nobody claims"),
    "C07": Point("worker: claim committed, leases not yet held", "the lease lapses"),
    "C08": Point("worker: claimed, before anything runs", "the lease lapses"),
    "C09": Point("worker: claim written, before COMMIT", "still ready; the relay publishes again"),
    "C10": Point("worker: a model has answered, nothing is written down", "the lease lapses; the model is asked again"),
    "C11": Point(
        "worker: an answer is in the journal, nothing follows", "the lease lapses; it goes on from the answer"
    ),
    "C14": Point("worker: the body has ended, nothing is decided", "the lease lapses; the body runs again"),
    "C15": Point("settlement: written, before COMMIT", "rolled back; the lease lapses"),
    "C16": Point("worker: settlement committed, the delivery not told", "it is done; what was taken on lapses"),
    "C17": Point("worker: settlement committed, wakeups not published", "the relay publishes again"),
    "C18": Point("sweeper: lapsed leases locked, before they are settled", "rolled back; the next sweep"),
    "C20": Point("cancel: committed, before the reply and before workers know", "heartbeats tell them; lapsed leases"),
    "C21": Point("webhook: dead letters taken, nobody told", "they are due again when the hold is over"),
    "C22": Point("answer to a question: committed, before wakeup and reply", "the relay publishes again"),
    "C23": Point("accepted plan: its steps written, before COMMIT", "rolled back; the planner's lease lapses"),
    "C24": Point("worker: a reviewer has judged, nothing is decided", "the lease lapses; the reviewer is asked again"),
    "C25": Point("redrive: committed, before wakeup and reply", "the relay; a second click changes nothing"),
    "C27": Point("migration: one revision applied, before COMMIT", "all revisions are one transaction; migrate again"),
    "C28": Point("relay: messages sent, the pass not over", "nothing is missing"),
    "C29": Point("relay: the broker is away, rows not yet waiting again", "the relay publishes again what is old"),
    "C30": Point("worker: all settled, before the acknowledgement", "the message comes again and names nothing to do"),
    "C31": Point("sweeper: committed, wakeups not published", "the relay publishes again"),
    "C32": Point("cancel: written, before COMMIT", "rolled back; the next request, or the next look at deadlines"),
    "C33": Point("stager: due steps queued, before COMMIT", "rolled back; the next pass"),
    "C34": Point("answer to a question: written, before COMMIT", "rolled back; the question is still open"),
    "C35": Point("redrive: written, before COMMIT", "rolled back; the dead letter is still open"),
    "C36": Point("redrive of bytes: written, before COMMIT", "rolled back; the dead letter is still open"),
    "C37": Point("discard: written, before COMMIT", "rolled back; the dead letter is still open"),
    "C38": Point("discard: committed, before the reply", "a second click says that it is closed"),
    "C39": Point("webhook: told, before that is noted", "told once more when the hold is over"),
    "C40": Point("pruner: one table done, before the next", "the next pass"),
    "C41": Point("worker: bytes that are no message stored, not acknowledged", "the broker hands them over again"),
    "C42": Point("worker: bytes that are no message written, before COMMIT", "the broker still holds them"),
    "C43": Point("worker: steps without a slot handed back, before COMMIT", "the relay publishes again"),
    "C44": Point("fork: written, before COMMIT", "nothing is left; the client sends it again with its key"),
}


class CrashPoint(Protocol):
    def __call__(self, name: str, when: object = True) -> None:
        """Pass the point `name`, unless `when` is false or empty."""
        ...


def refuse_crashes(environ: Mapping[str, str], *, permitted: bool = False) -> None:
    """Raises `Misconfigured` where the variable is set and may not be, or names no point."""
    wanted = environ.get(CRASH_AT)
    if not wanted:
        return
    if not permitted and not environ.get(CRASH_PERMITTED):
        raise Misconfigured(
            f"crash_at: {CRASH_AT} makes processes die on purpose, for `orchestrator dev` and tests only: unset it."
        )
    _parse(wanted)


def passed_on(environ: Mapping[str, str]) -> dict[str, str]:
    """What `orchestrator dev` tells the processes it starts."""
    return {CRASH_AT: environ[CRASH_AT], CRASH_PERMITTED: "dev"} if environ.get(CRASH_AT) else {}


def _parse(text: str) -> tuple[str, int]:
    """(name, at which passage)."""
    name, colon, number = text.partition(":")
    if name not in POINTS:
        raise Misconfigured(f"crash_at: {CRASH_AT}={text!r} names no crash point; they are {', '.join(POINTS)}.")
    if colon and not (number.isdecimal() and int(number) > 0):
        raise Misconfigured(f"crash_at: {CRASH_AT}={text!r}: after the colon comes the number of a passage, from 1 up.")
    return name, int(number) if colon else 1


def _bind(environ: Mapping[str, str], die: Callable[[str], None]) -> CrashPoint:
    try:
        refuse_crashes(environ)
    except Misconfigured:  # whoever reads the settings says so, in words
        return _pass_by
    if not environ.get(CRASH_AT):
        return _pass_by
    armed, passage = _parse(environ[CRASH_AT])
    passages = itertools.count(1)

    def crash_point(name: str, when: object = True) -> None:
        if name == armed and when and next(passages) == passage:
            die(name)

    return crash_point


def _pass_by(name: str, when: object = True) -> None:
    """What a crash point is everywhere but in tests of recovery."""


def _die(name: str) -> None:
    os.write(2, f"crash point {name}\n".encode())
    os._exit(EXIT_CODE)


crash_point: CrashPoint = _bind(os.environ, _die)
