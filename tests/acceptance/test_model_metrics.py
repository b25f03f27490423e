"""Calls to models and their tokens, counted by the worker that made them, by agent and model."""

from orchestrator.embedded.folder import free_port
from tests.providers.models import NAME, calculating, steps, talkers
from tests.providers.scripted import ScriptedProvider

from ..scrape import scrape
from .conftest import MakeHouse

TURNS = 3


def test_every_call_that_is_in_the_journal_is_counted_with_its_tokens(
    make_house: MakeHouse, provider: ScriptedProvider
) -> None:
    port = free_port()
    house = make_house()
    house.start_workers("m1", metrics_listen=f"127.0.0.1:{port}")
    (house.folder / "key").write_text("a key")
    house.apply(talkers(provider.url, api_key=f"file:{house.folder / 'key'}"))
    provider.on(lambda ask: True, calculating(TURNS, seconds=0.01))
    house.wait(house.submit(steps(1), team=NAME))
    journal = house.query(
        """select agent, model, ending, count(*)::int as calls, sum(input_tokens)::int as input,
        sum(output_tokens)::int as output from model_calls group by 1, 2, 3"""
    )
    series = scrape(f"http://127.0.0.1:{port}/metrics")
    calls = {(has["agent"], has["model"], has["ending"]): n for has, n in series["orchestrator_model_calls_total"]}
    assert calls == {(row["agent"], row["model"], row["ending"]): row["calls"] for row in journal}
    assert sum(calls.values()) >= TURNS
    tokens: dict[str, float] = {}
    for has, number in series["orchestrator_model_tokens_total"]:
        tokens[has["direction"]] = tokens.get(has["direction"], 0) + number
    assert tokens == {way: sum(row[way] for row in journal) for way in ("input", "output")}
    assert tokens["input"] > 0
