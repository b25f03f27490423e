"""Cassettes whose requests grow as one conversation, as whole agents: their tools answer what was recorded."""

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from sqlalchemy import Engine

from contracts.assignments import Assignment
from contracts.errors import Failure
from contracts.outcomes import Done, Failed, Outcome
from contracts.policy import decide
from contracts.settlements import Return
from contracts.teams import RetryRule
from contracts.verdicts import Reason
from tests.providers.asked import read
from tests.providers.cassettes import CassetteServer, Entry, Fault, Plan
from tests.providers.recordings import Exchange, Truth, grows, truth
from tests.replay.exchanges import supported
from tests.replay.stage import LONG_SECONDS, PLENTY, TEAM, Stage, gather_some

PATIENT = TEAM.model_copy(update={"retry": {"default": RetryRule(attempts=100, backoff_seconds=0.0)}})
SILENCE_SECONDS = 4.0
OUTPUT_TOOL = "final_result"
"""How the recorded agents called the tools that end their work; with a suffix where there are several."""


@dataclass
class Played:
    agents: int = 0
    calls: int = 0
    """Requests that the server saw."""
    faults: int = 0
    results: int = 0
    """Recorded results of tools that were found in the next request."""
    failures: list[str] = field(default_factory=list)


def conversations(cassettes: Sequence[Sequence[Exchange]]) -> list[list[Exchange]]:
    """Those that grow, need nothing that is not supported, and are all streamed or all not."""
    return [
        list(each)
        for each in cassettes
        if all(supported(exchange) for exchange in each)
        and grows(each)
        and len({exchange.stream for exchange in each}) == 1
    ]


def run(engine: Engine, tapes: Sequence[Sequence[Exchange]], plan: Plan | None = None) -> Played:
    """Each tape is one step: as many attempts as it takes until all of it has been answered, and not one turn more."""
    with CassetteServer(tapes, plan or (lambda tape, number, before: None)) as server:
        stage = Stage(engine, server.base_url, silence_seconds=SILENCE_SECONDS if plan else 60.0)
        return stage.run(_play(stage, server, tapes))


async def _play(stage: Stage, server: CassetteServer, tapes: Sequence[Sequence[Exchange]]) -> Played:
    assignments = stage.submit([f"c{tape}" for tape in range(len(tapes))])
    played = Played(agents=len(tapes))

    async def play_one(tape: int) -> None:
        outcome = await _converse(stage, server, assignments[f"c{tape}"], tape, tapes[tape])
        wrong = _wrong(server.asked(tape), tapes[tape], outcome, played)
        if wrong:
            played.failures.append(f"{tapes[tape][0].cassette}: {wrong}")

    await gather_some([lambda tape=tape: play_one(tape) for tape in range(len(tapes))])
    played.calls = len(server.ledger)
    played.faults = sum(entry.broken is not None for entry in server.ledger)
    return played


async def _converse(
    stage: Stage, server: CassetteServer, assignment: Assignment, tape: int, exchanges: Sequence[Exchange]
) -> Outcome:
    limits = PLENTY.model_copy(update={"turns": len(exchanges)})
    while True:
        recorded = _results(exchanges, server.played(tape))
        outcome = await stage.attempt(
            assignment, tape, exchanges[0], limits=limits, outputs=_output_tools(exchanges[0]),
            answers=lambda name, recorded=recorded: recorded[name].popleft() if recorded[name] else "nothing",
        )  # fmt: skip
        if server.played(tape) == len(exchanges):
            stage.settle(assignment, outcome)
            return outcome
        # The conversation went on: the output was refused, or the call was made again.
        settlement = _go_on(assignment, outcome, exchanges[server.played(tape)])
        await asyncio.sleep(settlement.after_seconds)
        stage.write(assignment, settlement.model_copy(update={"after_seconds": 0.0}))
        (assignment,) = stage.driver.claim(assignment.key, lease_seconds=LONG_SECONDS)


def _go_on(assignment: Assignment, outcome: Outcome, following: Exchange) -> Return:
    if isinstance(outcome, Done):
        said = Reason(code="recorded", text=json.dumps(following.items[-1])[:1000])
        failure = Failure(code="gate.rejected", text="as recorded")
        return Return(failure=failure, rejected=True, output=outcome.output, feedback=(said,))
    settlement = decide(assignment, outcome, (), PATIENT, chance=0.0)
    assert isinstance(settlement, Return), settlement
    return settlement


def _output_tools(exchange: Exchange) -> list[str]:
    return [name for name in exchange.offered if name.startswith(OUTPUT_TOOL)]


def _results(exchanges: Sequence[Exchange], played: int) -> dict[str, deque[str]]:
    """What each tool answers from here on, in the order of its calls: attempts begin with those of the last answer."""
    answers: dict[str, deque[str]] = defaultdict(deque)
    for earlier, later in list(pairwise(exchanges))[max(0, played - 1) :]:
        for name, text in _used(later.items[len(earlier.items) :], earlier.body.decode()):
            answers[name].append(text)
    return answers


def _used(items: Sequence[dict[str, Any]], said: str) -> list[tuple[str, str]]:
    """The tools called in a piece of conversation, in the order of the calls, with what they answered. Only calls whose
    ids stand in what the model has `said`: some of the recorded clients have put in calls of their own."""
    answers = dict(pair for item in items for pair in _answered(item))
    calls = [pair for item in items for pair in _calls(item)]
    return [(name, answers[each]) for each, name in calls if each in answers and each in said]


def _calls(item: dict[str, Any]) -> list[tuple[str, str]]:
    """Ids and names."""
    if item.get("type") == "function_call":
        return [(item["call_id"], item["name"])]
    calls = [(call["id"], call["function"]["name"]) for call in item.get("tool_calls") or ()]
    return calls + [(block["id"], block["name"]) for block in _blocks(item) if block.get("type") == "tool_use"]


def _answered(item: dict[str, Any]) -> list[tuple[str, str]]:
    """Ids of calls and the texts of their results."""
    if item.get("type") == "function_call_output":
        return [(item["call_id"], _plain(item["output"]))]
    if item.get("role") == "tool":
        return [(item["tool_call_id"], _plain(item["content"]))]
    results = [block for block in _blocks(item) if block.get("type") == "tool_result"]
    return [(block["tool_use_id"], _plain(block.get("content"))) for block in results]


def _blocks(item: dict[str, Any]) -> list[dict[str, Any]]:
    content = item.get("content")
    return content if isinstance(content, list) else []


def _plain(content: Any) -> str:
    """Our tools answer with text: of pictures and files there is only the name."""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text") or f"[{part['type']}]" for part in content or ())


def _wrong(entries: Sequence[Entry], exchanges: Sequence[Exchange], outcome: Outcome, played: Played) -> str | None:
    whole = [entry for entry in entries if entry.whole]
    if [entry.number for entry in whole] != list(range(len(exchanges))) or len(entries) != len(whole) + sum(
        entry.broken is not None for entry in entries if not entry.whole
    ):
        return f"calls {[(entry.number, entry.whole) for entry in entries]} of {len(exchanges)}: {outcome}"
    for entry, earlier, exchange in zip(whole[1:], exchanges, exchanges[1:], strict=False):
        ends = _output_tools(exchange)
        new = exchange.items[len(earlier.items) :]
        used = [text for name, text in _used(new, earlier.body.decode()) if name not in ends]
        sent = _sent_results(entry)
        if any(text not in sent for text in used):
            return f"call {entry.number} tells {sent} instead of {used}"
        played.results += len(used)
    for earlier, later in pairwise(entries):
        broken = earlier.broken
        if broken and broken.fault is Fault.RATE_LIMIT and later.at - earlier.at < broken.seconds:
            return f"asked after {later.at - earlier.at:.3f} s where {broken.seconds:g} s were asked for"
    return _wrong_end(truth(exchanges[-1]), outcome)


def _sent_results(entry: Entry) -> list[str]:
    """What our tools answered, as the provider was told."""
    ask = read(0, 0.0, entry.path, {}, json.loads(entry.body))
    assert ask is not None
    found = []
    for turn in ask.results:
        with suppress(ValueError, KeyError, TypeError):
            found.append(json.loads(turn.text)["data"]["answer"])
    return found


def _wrong_end(last: Truth, outcome: Outcome) -> str | None:
    if last.ending == "answered":
        return None if outcome == Done(output=last.text) else f"{outcome} instead of {last.text!r}"
    code = outcome.failure.code if isinstance(outcome, Failed) else None
    if last.ending == "tool_calls":
        return None if code == "bound.turns" or isinstance(outcome, Done) else f"{outcome}"
    return None if code == f"model.{last.ending}" else f"{outcome}"
