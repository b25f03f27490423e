"""Recorded traffic of model providers: played on loopback, heard by the real client libraries under our model layer."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.providers.cassettes import CassetteServer
from tests.providers.recordings import load
from tests.replay import conversations, exchanges
from tests.replay.stage import Stage

# The recordings name models that are out of date, and say things that client libraries warn of.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def test_every_recorded_exchange_ends_as_the_recording_says(
    engine: Engine, test_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cassettes = list(load(test_data).values())

    async def play(server: CassetteServer) -> exchanges.Table:
        stage = Stage(engine, server.base_url)
        try:
            return await exchanges.play(stage, server, cassettes)
        finally:
            await stage.providers.close()

    tapes = [[each for each in cassette if exchanges.supported(each)] for cassette in cassettes]
    with CassetteServer(tapes) as server:
        table = asyncio.run(play(server))
    with capsys.disabled():
        print("", *table.lines(), sep="\n")
    assert table.failures == []
    assert table.counts["passed"] + table.counts["refused"] == table.counts["exchanges"] > 1000


def test_recorded_conversations_run_as_whole_agents_with_as_many_calls_as_were_recorded(
    engine: Engine, test_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tapes = conversations.conversations(list(load(test_data).values()))

    async def play(server: CassetteServer) -> conversations.Played:
        stage = Stage(engine, server.base_url)
        try:
            return await conversations.play(stage, server, tapes)
        finally:
            await stage.providers.close()

    with CassetteServer(tapes) as server:
        played = asyncio.run(play(server))
    with capsys.disabled():
        print(
            f"\n{played.agents} conversations as whole agents, {played.calls} calls, {played.results} results of tools"
        )
    assert played.failures == []
    assert played.calls == sum(len(tape) for tape in tapes) > 300
