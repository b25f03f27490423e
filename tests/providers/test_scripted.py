"""The scripted provider is understood by the real client libraries, in every dialect, streaming or not."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.providers.scripted import Refuse, Say, ScriptedProvider

DIALECTS = ("chat", "responses", "messages")


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as started:
        yield started


def agent(dialect: str, url: str, http: httpx2.AsyncClient) -> Any:
    from pydantic_ai import Agent
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.anthropic import AnthropicProvider
    from pydantic_ai.providers.openai import OpenAIProvider

    match dialect:
        case "chat":
            model: Any = OpenAIChatModel("any", provider=OpenAIProvider(base_url=url, api_key="k", http_client=http))
        case "responses":
            model = OpenAIResponsesModel("any", provider=OpenAIProvider(base_url=url, api_key="k", http_client=http))
        case _:
            base = url.removesuffix("/v1")
            model = AnthropicModel("any", provider=AnthropicProvider(base_url=base, api_key="k", http_client=http))
    made = Agent(model, instructions="be short", output_type=str)

    @made.tool_plain
    def weather(city: str) -> str:
        return f"rain in {city}"

    return made


async def ask(dialect: str, url: str, streaming: bool) -> tuple[str, Any]:
    async with httpx2.AsyncClient() as http:
        made = agent(dialect, url, http)
        if not streaming:
            done = await made.run("how is the weather?")
            return done.output, done.usage
        async with made.run_stream("how is the weather?") as run:
            return await run.get_output(), run.usage


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_tool_call_and_an_answer(provider: ScriptedProvider, dialect: str, streaming: bool) -> None:
    long = "It rains in Oslo, " * 20
    provider.on(lambda ask: bool(ask.results), lambda ask: Say(f"{long}{ask.results[-1].text}"))
    provider.on(lambda ask: ask.has("how is the weather?"), Say(calls=[("weather", {"city": "Oslo"})]))
    output, usage = asyncio.run(ask(dialect, provider.url, streaming))
    assert output == f"{long}rain in Oslo"
    first, second = provider.ledger
    assert (first.dialect, first.model, first.tools) == (dialect, "any", ("weather",))
    assert first.tool_schema("weather")["required"] == ["city"]
    assert first.system == second.system == "be short"
    assert second.results[-1].tool == "weather"
    assert bool(first.stream) is streaming
    assert usage.output_tokens > 80
    assert provider.unscripted == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_nothing_was_scripted_for_is_an_error(provider: ScriptedProvider, dialect: str) -> None:
    from pydantic_ai.exceptions import ModelHTTPError

    provider.say(Refuse(422))
    for status in (422, 400):
        with pytest.raises(ModelHTTPError) as error:
            asyncio.run(ask(dialect, provider.url, False))
        assert error.value.status_code == status
    assert provider.unscripted == provider.ledger[1:]
