"""Recorded answers with faults before them, through real workers: every task must end in the state that is right."""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any
from uuid import UUID

from contracts.teams import Team
from tests.acceptance.house import House
from tests.providers.cassettes import Broken, CassetteServer, Fault, Plan, repeat_event
from tests.providers.recordings import Exchange, truth
from tests.replay.exchanges import supported
from tests.replay.stage import MAX_TOKENS, model_of

ATTEMPTS = 6
NAME = "faulted"
SILENT_SECONDS = 30.0
CODES = {
    Fault.RATE_LIMIT: "model.rate_limited",
    Fault.RATE_LIMIT_BARE: "model.rate_limited",
    Fault.SERVER_ERROR: "model.server_error",
    Fault.CUT_HARD: "model.cut_stream",
    Fault.SILENCE: "model.timeout",
    Fault.HTML: "model.not_json",
}
"""What an attempt ends with. A whole answer that is cut politely is no JSON any more; a stream is a cut stream."""
QUICK = (Fault.RATE_LIMIT_BARE, Fault.SERVER_ERROR, Fault.HTML)
"""What may come at every attempt without taking long."""
LAST_EVENTS = re.compile(
    rb'"finish_reason": ?"|"stop_reason": ?"(?!")|event: response\.completed|"type": ?"response.completed"'
)


@dataclass(frozen=True)
class Ordeal:
    """What happens to one tape: `faults` come before its answer, `endless` instead of it, `repeated` in it."""

    faults: tuple[Broken, ...]
    endless: bool
    repeated: Broken | None

    def at(self, before: int) -> Broken | None:
        if self.endless:
            return self.faults[0]
        return self.faults[before] if before < len(self.faults) else self.repeated


@dataclass
class Report:
    seed: int
    tasks: int = 0
    calls: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    repeats_heard: int = 0
    """Pieces of text sent twice by streams that mark nothing: nobody can tell them from what the model said twice."""
    failures: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        return {**vars(self), "faults": dict(self.faults), "states": dict(self.states)}

    def lines(self) -> list[str]:
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        states = ", ".join(f"{name} {count}" for name, count in sorted(self.states.items()))
        first = f"seed {self.seed}: {self.tasks} tasks ({states}), {self.calls} calls"
        return [first, f"faults: {faults}", f"repeats that no mark tells: {self.repeats_heard}", *self.failures[:20]]


def chosen(cassettes: Sequence[Sequence[Exchange]]) -> list[Exchange]:
    """Exchanges that a step can be made of: text, or a refusal that stays one."""
    return [
        exchange
        for cassette in cassettes
        for exchange in cassette
        if supported(exchange) and truth(exchange).ending in ("answered", "bad_request", "not_found")
    ]


def ordeal(seed: int, tape: int, exchange: Exchange) -> Ordeal:
    draw = random.Random(f"{seed}:{tape}")
    if tape % 12 == 11:
        return Ordeal((Broken(draw.choice(QUICK)),), endless=True, repeated=None)
    faults = draw_faults(draw, exchange, draw.choice([1, 1, 2, 3]))
    # An old stream of the responses dialect numbers nothing, but says at its end what it was: what does not fit that is
    # a damaged answer, and a tape has its answer only once.
    told = exchange.dialect == "responses" and b'"sequence_number"' not in exchange.body
    repeats = exchange.stream and draw.random() < 0.5 and not told
    repeated = Broken(Fault.REPEATED_CHUNK, at=draw.random()) if repeats else None
    return Ordeal(faults, endless=False, repeated=repeated)


def draw_faults(draw: random.Random, exchange: Exchange, count: int) -> tuple[Broken, ...]:
    """Different ones, that may come before this exchange's answer."""
    kinds = [Fault.RATE_LIMIT, Fault.RATE_LIMIT_BARE, Fault.SERVER_ERROR, Fault.HTML, Fault.SILENCE]
    if exchange.status < 400:  # half of an error is an error
        kinds += [Fault.CUT_HARD, Fault.CUT_POLITELY]
    return tuple(_broken(fault, draw, exchange) for fault in draw.sample(kinds, count))


def plan_of_conversations(seed: int, tapes: Sequence[Sequence[Exchange]]) -> Plan:
    """One fault before about every second answer."""

    def plan(tape: int, number: int, before: int) -> Broken | None:
        draw = random.Random(f"{seed}:{tape}:{number}")
        return draw_faults(draw, tapes[tape][number], 1)[0] if not before and draw.random() < 0.5 else None

    return plan


def _broken(fault: Fault, draw: random.Random, exchange: Exchange) -> Broken:
    if fault is Fault.SILENCE:
        return Broken(fault, seconds=SILENT_SECONDS)
    if fault is Fault.RATE_LIMIT:
        return Broken(fault, seconds=draw.choice([1, 2]))
    # Somewhere before the last thing that an answer needs to be a whole one.
    end = LAST_EVENTS.search(exchange.body) if exchange.stream else None
    return Broken(fault, at=draw.random() * (end.start() / len(exchange.body) if end else 1.0))


def team(server: CassetteServer, tapes: Sequence[Exchange], silence_seconds: float) -> Team:
    """An agent for each tape: each has an address of its own."""
    agents = {
        f"t{tape}": {
            "kind": "llm",
            "prompt": "play",
            "model": model_of(each),
            "base_url": server.base_url(tape),
            "settings": {"stream": each.stream, "silence_seconds": silence_seconds, "max_tokens": MAX_TOKENS},
        }
        for tape, each in enumerate(tapes)
    }
    retry = {"default": {"attempts": ATTEMPTS, "backoff_seconds": 0.05, "backoff_limit_seconds": 0.2}}
    return Team.model_validate({"name": NAME, "agents": agents, "prompts": {"play": "Play."}, "retry": retry})


def play(house: House, tapes: Sequence[Exchange], seed: int, silence_seconds: float, deadline_seconds: float) -> Report:
    ordeals = [ordeal(seed, tape, each) for tape, each in enumerate(tapes)]
    with CassetteServer([[each] for each in tapes], lambda tape, number, before: ordeals[tape].at(before)) as server:
        house.apply(team(server, tapes, silence_seconds))
        tasks = [house.submit([{"id": "s", "agent": f"t{tape}"}], team=NAME) for tape in range(len(tapes))]
        sql = "select count(*)::int as count from tasks where id = any(%(ids)s) and finished_at is null"
        house.until(lambda: house.query(sql, ids=tasks)[0]["count"] == 0, "every task ends", deadline_seconds)
    report = Report(seed, tasks=len(tapes), calls=len(server.ledger))
    for tape, (exchange, task) in enumerate(zip(tapes, tasks, strict=True)):
        wrong = _wrong(report, house, server, tape, exchange, ordeals[tape], task)
        if wrong:
            report.failures.append(f"tape {tape}, {exchange.cassette} {exchange.number}, {ordeals[tape]}: {wrong}")
    return report


def _wrong(
    report: Report, house: House, server: CassetteServer, tape: int, exchange: Exchange, ordeal: Ordeal, task: UUID
) -> str | None:
    entries = server.asked(tape)
    report.faults.update(entry.broken.fault for entry in entries if entry.broken)
    state, codes, text = expected(report, exchange, ordeal)
    found = house.task(task)
    report.states[found["state"]] += 1
    if found["state"] != state:
        return f"{found['state']} instead of {state}: {found['error']}"
    failed = [attempt["error"]["code"] for attempt in house.attempts(task) if attempt["error"]]
    if failed != codes:
        return f"attempts failed with {failed} instead of {codes}"
    if state == "succeeded":
        (row,) = house.query(
            "select body from outputs o join steps s on s.id = o.step_id where s.task_id = %(t)s", t=task
        )
        if row["body"] != text:
            return f"{row['body']!r} instead of {text!r}"
    calls = ATTEMPTS if ordeal.endless else len(ordeal.faults) + 1
    if len(entries) != calls or any(entry.number is None for entry in entries):
        return f"{len(entries)} calls instead of {calls}"
    if [entry.whole for entry in entries[:-1]] != [False] * (len(entries) - 1):
        return "asked again for what was answered in full"
    for earlier, later in pairwise(entries):
        broken = earlier.broken
        if broken and broken.fault is Fault.RATE_LIMIT and later.at - earlier.at < broken.seconds:
            return f"asked after {later.at - earlier.at:.3f} s where {broken.seconds:g} s were asked for"
    return None


def expected(report: Report, exchange: Exchange, ordeal: Ordeal) -> tuple[str, list[str], str]:
    """The task's state, the codes of its failed attempts, and its output, from the recording and the plan alone."""
    codes = [_code(exchange, broken) for broken in ordeal.faults]
    if ordeal.endless:
        return "failed", codes * ATTEMPTS, ""
    known = truth(exchange)
    if known.ending != "answered":
        return "failed", [*codes, f"model.{known.ending}"], ""
    if ordeal.repeated is None:
        return "succeeded", codes, known.text
    heard = truth(_as_heard(exchange, repeat_event(exchange.body, ordeal.repeated.at)))
    report.repeats_heard += heard.text != known.text
    return "succeeded", codes, heard.text


def _code(exchange: Exchange, broken: Broken) -> str:
    if broken.fault is Fault.CUT_POLITELY:
        return "model.cut_stream" if exchange.stream else "model.not_json"
    return CODES[broken.fault]


def _as_heard(exchange: Exchange, body: bytes) -> Exchange:
    """With a repeated event, unless something says that it is one: a number, a filling, its place."""
    gap = "\r\n\r\n" if b"\r\n\r\n" in body else "\n\n"
    kept: list[str] = []
    for event in body.decode().split(gap):
        marked = re.search(r'"sequence_number"|"obfuscation"|"type": ?"(message|content_block)_(start|stop)"', event)
        if not (marked and kept and kept[-1] == event):
            kept.append(event)
    return replace(exchange, response=gap.join(kept))
