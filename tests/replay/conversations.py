"""Cassettes whose requests grow as one conversation, as whole agents: their tools answer what was recorded."""

import json
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from contracts.assignments import Assignment
from contracts.errors import Failure
from contracts.outcomes import Done, Failed, Outcome
from contracts.settlements import Return
from contracts.verdicts import Reason
from tests.providers.cassettes import CassetteServer
from tests.providers.recordings import Exchange, grows, truth
from tests.replay.exchanges import supported
from tests.replay.stage import PLENTY, Stage, gather_some

OUTPUT_TOOL = "final_result"
"""How the recorded agents called the tools that end their work; with a suffix where there are several."""


@dataclass
class Played:
    agents: int = 0
    calls: int = 0
    """Requests that the server saw."""
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


async def play(stage: Stage, server: CassetteServer, tapes: Sequence[Sequence[Exchange]]) -> Played:
    """Each tape is one step: as many attempts as it takes until all of it has been asked for, and one turn no more."""
    assignments = stage.submit([f"c{tape}" for tape in range(len(tapes))])
    played = Played()

    async def play_one(tape: int) -> None:
        outcome = await _converse(stage, server, assignments[f"c{tape}"], tape, tapes[tape])
        wrong = _wrong(server, tape, tapes[tape], outcome, played)
        if wrong:
            played.failures.append(f"{tapes[tape][0].cassette}: {wrong}")

    await gather_some([lambda tape=tape: play_one(tape) for tape in range(len(tapes))])
    played.agents = len(tapes)
    played.calls = len(server.ledger)
    return played


async def _converse(
    stage: Stage, server: CassetteServer, assignment: Assignment, tape: int, exchanges: Sequence[Exchange]
) -> Outcome:
    recorded = _results(exchanges)
    limits = PLENTY.model_copy(update={"turns": len(exchanges)})
    outputs = [name for name in exchanges[0].offered if name.startswith(OUTPUT_TOOL)]
    while True:
        outcome = await stage.attempt(
            assignment, tape, exchanges[0], limits=limits, outputs=outputs,
            answers=lambda name: recorded[name].popleft() if recorded[name] else "nothing more was recorded",
        )  # fmt: skip
        asked = len(server.asked(tape))
        if asked >= len(exchanges):
            stage.settle(assignment, outcome)
            return outcome
        # The conversation went on: the output was refused, or the call was made again.
        stage.write(assignment, _go_on(outcome, exchanges[asked]))
        (assignment,) = stage.driver.claim(assignment.key)


def _go_on(outcome: Outcome, following: Exchange) -> Return:
    if isinstance(outcome, Done):
        said = json.dumps(following.items[-1])
        failure = Failure(code="gate.rejected", text="as recorded")
        return Return(
            failure=failure, rejected=True, output=outcome.output, feedback=(Reason(code="recorded", text=said[:1000]),)
        )
    assert isinstance(outcome, Failed), outcome
    return Return(failure=outcome.failure)


def _results(exchanges: Sequence[Exchange]) -> dict[str, deque[str]]:
    """What each tool answered, in the order of its calls."""
    answers: dict[str, deque[str]] = defaultdict(deque)
    names: dict[str, str] = {}
    for item in exchanges[-1].items[len(exchanges[0].items) :]:
        names |= {call_id: name for call_id, name in _calls(item)}
        for call_id, text in _answered(item):
            answers[names.get(call_id, "")].append(text)
    return answers


def _calls(item: dict[str, Any]) -> list[tuple[str, str]]:
    if item.get("type") == "function_call":
        return [(item["call_id"], item["name"])]
    calls = [(call["id"], call["function"]["name"]) for call in item.get("tool_calls") or ()]
    blocks = item.get("content") if isinstance(item.get("content"), list) else []
    return calls + [(block["id"], block["name"]) for block in blocks or () if block.get("type") == "tool_use"]


def _answered(item: dict[str, Any]) -> list[tuple[str, str]]:
    if item.get("type") == "function_call_output":
        return [(item["call_id"], _plain(item["output"]))]
    if item.get("role") == "tool":
        return [(item["tool_call_id"], _plain(item["content"]))]
    blocks = item.get("content") if isinstance(item.get("content"), list) else []
    return [
        (block["tool_use_id"], _plain(block.get("content")))
        for block in blocks or ()
        if block.get("type") == "tool_result"
    ]


def _plain(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content)


def _wrong(
    server: CassetteServer, tape: int, exchanges: Sequence[Exchange], outcome: Outcome, played: Played
) -> str | None:
    entries = server.asked(tape)
    if len(entries) != len(exchanges) or [entry.number for entry in entries] != list(range(len(exchanges))):
        return f"{len(entries)} calls instead of {len(exchanges)}: {outcome}"
    last = truth(exchanges[-1])
    if last.ending == "answered":
        return None if outcome == Done(output=last.text) else f"{outcome} instead of {last.text!r}"
    if last.ending == "tool_calls":
        over = isinstance(outcome, Failed) and outcome.failure.code == "bound.turns"
        return None if over or isinstance(outcome, Done) else f"{outcome}"
    return None if isinstance(outcome, Failed) and outcome.failure.code == f"model.{last.ending}" else f"{outcome}"
