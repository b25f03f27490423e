"""Every recorded exchange through the model layer, once: ending, tokens and text are as in the raw JSON."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine

from contracts.assignments import Assignment
from contracts.outcomes import Done, Failed, Outcome
from tests.providers.cassettes import CassetteServer
from tests.providers.recordings import Exchange, Truth, truth
from tests.replay.stage import PLENTY, Stage, gather_some
from workers.llm.causes import ending_of_error
from workers.llm.endings import Kind

ONE_TURN = PLENTY.model_copy(update={"turns": 1})
TOLD = frozenset({"cut_off", "empty", "unknown_tool", "tool_arguments"})
"""Endings after which the model would be told, had it another turn."""
ROWS = ("cassettes", "exchanges", "streams", "errors", "refusals", "truncations", "passed", "refused", "failed")
ERRORS = frozenset({"bad_request", "not_found", "rate_limited", "tool_rejected", "malformed", "not_json"})
"""Endings of calls that the provider did not answer, in the status, in the answer or in the middle of a stream."""


@dataclass
class Table:
    counts: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    """What is refused, and how often."""
    endings: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        counted = {name: self.counts[name] for name in ROWS}
        endings, refused = dict(self.endings.most_common()), dict(self.refused.most_common())
        return {**counted, "endings": endings, "refused by name": refused, "failures": self.failures}

    def lines(self) -> list[str]:
        names = (
            "cassettes",
            "exchanges",
            "streams",
            "errors",
            "refusals",
            "truncations",
            "passed",
            "refused",
            "failed",
        )
        made = [f"{name:<12} {self.counts[name]:>6}" for name in names]
        made.append("endings      " + ", ".join(f"{name} {count}" for name, count in self.endings.most_common()))
        made.append("refused      " + ", ".join(f"{name} {count}" for name, count in self.refused.most_common()))
        return made + self.failures[:20]


def run(engine: Engine, cassettes: Sequence[Sequence[Exchange]]) -> Table:
    """What is not supported never reaches the server: its tapes hold the rest of each cassette."""
    tapes = [[each for each in cassette if supported(each)] for cassette in cassettes]
    with CassetteServer(tapes) as server:
        stage = Stage(engine, server.base_url)
        return stage.run(_play(stage, server, cassettes))


async def _play(stage: Stage, server: CassetteServer, cassettes: Sequence[Sequence[Exchange]]) -> Table:
    keys = [f"x{tape}.{place}" for tape, cassette in enumerate(cassettes) for place, _ in enumerate(cassette)]
    assignments = stage.submit(keys)
    outcomes: dict[str, Outcome] = {}

    async def play_one(tape: int) -> None:
        for place, exchange in enumerate(cassettes[tape]):
            key = f"x{tape}.{place}"
            outcomes[key] = await _attempt(stage, assignments[key], tape, exchange)

    await gather_some([lambda tape=tape: play_one(tape) for tape in range(len(cassettes))])
    for key, outcome in outcomes.items():
        stage.settle(assignments[key], outcome)
    calls = stage.calls()
    table = Table()
    table.counts["cassettes"] = len(cassettes)
    for tape, cassette in enumerate(cassettes):
        for place, exchange in enumerate(cassette):
            key = f"x{tape}.{place}"
            _judge(table, exchange, outcomes[key], calls.get(key, []))
        if len(server.asked(tape)) != len([each for each in cassette if supported(each)]):
            table.failures.append(f"{cassette[0].cassette}: {len(server.asked(tape))} requests")
    table.counts["failed"] = len(table.failures)
    return table


def supported(exchange: Exchange) -> bool:
    return exchange.dialect is not None and not exchange.hosted


async def _attempt(stage: Stage, assignment: Assignment, tape: int, exchange: Exchange) -> Outcome:
    if exchange.dialect is not None:
        return await stage.attempt(assignment, tape, exchange, limits=ONE_TURN)
    # Nothing in our layer asks for such a path: the client does so by itself.
    client: Any = stage.providers.model(stage.agent(tape, exchange, ONE_TURN)).client
    try:
        await client.post(exchange.path.removeprefix("/v1"), body=exchange.request, cast_to=object)
    except Exception as error:
        return ending_of_error(error).outcome()
    raise AssertionError(f"{exchange.path} was sent")


def _judge(table: Table, exchange: Exchange, outcome: Outcome, calls: Sequence[Mapping[str, Any]]) -> None:
    table.counts["exchanges"] += 1
    table.counts["streams"] += exchange.stream
    code = outcome.failure.code if isinstance(outcome, Failed) else None
    if not supported(exchange):
        table.counts["refused"] += 1
        table.refused.update(exchange.hosted or [exchange.path])
        named = isinstance(outcome, Failed) and all(
            each in outcome.failure.text for each in exchange.hosted or [exchange.path]
        )
        if code != f"model.{Kind.UNSUPPORTED}" or not named:
            table.failures.append(f"{exchange.cassette} {exchange.number}: not refused by name: {outcome}")
        return
    wanted = truth(exchange)
    table.endings[wanted.ending] += 1
    table.counts["errors"] += wanted.ending in ERRORS
    table.counts["refusals"] += wanted.ending in ("refused", "filtered")
    table.counts["truncations"] += wanted.ending == "cut_off"
    wrong = _wrong(wanted, outcome, calls)
    if wrong:
        table.failures.append(f"{exchange.cassette} {exchange.number} ({exchange.host}): {wrong}")
    else:
        table.counts["passed"] += 1


def _wrong(wanted: Truth, outcome: Outcome, calls: Sequence[Mapping[str, Any]]) -> str | None:
    """What of the journal or the outcome is not as the recording is."""
    if [call["ending"] for call in calls] != [wanted.ending]:
        return f"{[call['ending'] for call in calls]} instead of {wanted.ending}: {outcome}"
    for name, tokens in (("input_tokens", wanted.input_tokens), ("output_tokens", wanted.output_tokens)):
        if tokens is not None and calls[0][name] != tokens:
            return f"{name} {calls[0][name]} instead of {tokens}"
    if wanted.ending == "answered":
        return None if outcome == Done(output=wanted.text) else f"{outcome} instead of {wanted.text!r}"
    code = outcome.failure.code if isinstance(outcome, Failed) else type(outcome).__name__
    right = "bound.turns" if wanted.ending in TOLD or wanted.ending == "tool_calls" else f"model.{wanted.ending}"
    return None if code == right else f"{code} instead of {right}"
