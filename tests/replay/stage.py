"""Where recordings are played: attempts of an LLM agent by hand, on a real database, against the cassette server."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic_ai.messages import ModelMessage
from pydantic_ai.tools import ToolDefinition
from sqlalchemy import Engine

from contracts.assignments import Assignment
from contracts.llm import Limits, Sampling
from contracts.outcomes import Outcome
from contracts.policy import decide
from contracts.settlements import Settlement
from contracts.teams import Agent, Kind, RetryRule, Role, Team
from contracts.testing import ignore_progress
from shared_state.artifacts import ArtifactStore
from shared_state.lineage import Lineage
from shared_state.model_calls import Journal
from shared_state.settings import load
from shared_state.tasks import Submission
from shared_state.teams import apply
from tests.integration.driver import Driver
from tests.providers import rebuilt
from tests.providers.recordings import Exchange
from workers.llm.brief import Brief
from workers.llm.outputs import Outputs
from workers.llm.providers import Providers
from workers.llm.talk import Talk
from workers.llm.tools import Desk, Sources, Tool
from workers.llm.tools.answers import Success

T = TypeVar("T")
PROVIDERS = {"chat": "openai-chat", "responses": "openai-responses", "messages": "anthropic"}
HOSTS = {"openrouter.ai": "openrouter", "api.deepseek.com": "deepseek", "api.cerebras.ai": "cerebras"}
"""Providers of the chat dialect that pydantic-ai knows by name and that need no package of their own."""
LONG_SECONDS = 3600.0
MAX_TOKENS = 4096
"""Without a bound pydantic-ai asks some models for a stream where none was wanted."""
PLENTY = Limits(
    turns=1000,
    tool_calls=10_000,
    input_tokens=10**9,
    output_tokens=10**9,
    identical_requests=1000,
    unparsable_answers=100,
)
TEAM = Team(
    name="replay",
    agents={"play": Agent(kind=Kind.LLM, prompt="play")},
    prompts={"play": "Play."},
    retry={"default": RetryRule(attempts=1)},
    bounds={"steps": 100_000, "rejections": 100},
)
Answers = Callable[[str], str]
"""What a tool of this name answers now."""


class Anything(BaseModel):
    """Arguments that fit whatever the recorded tool took."""

    model_config = ConfigDict(extra="allow")


@dataclass(frozen=True)
class RecordedBrief(Brief):
    """Begins where a recorded request stood."""

    exchange: Exchange

    def opening(self, assignment: Assignment) -> list[ModelMessage]:
        return rebuilt.messages(self.exchange)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """As much as every model writes, and what the request asks the provider itself to run."""
        hosted = ("tools", "input", "mcp_servers", "web_search_options", "search_settings")
        asked = {key: self.exchange.request[key] for key in hosted if self.exchange.request.get(key)}
        return {"max_tokens": MAX_TOKENS} | ({"extra_body": asked} if self.exchange.hosted else {})


class RecordedOutputs(Outputs):
    """An executor's text, or the output tools of the recorded agent by the names it gave them."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(Role.EXECUTOR, TypeAdapter(dict[str, Any]) if names else None)
        if names:
            self.text_ends = True
            self.definitions = [ToolDefinition(name=name, parameters_json_schema={"type": "object"}) for name in names]
            self.names = frozenset(names)


@dataclass
class Stage:
    """`silence_seconds` is how long agents wait for a byte."""

    engine: Engine
    base_url: Callable[[int], str]
    silence_seconds: float = 60.0
    driver: Driver = field(init=False)
    providers: Providers = field(init=False)

    def __post_init__(self) -> None:
        self.driver = Driver(self.engine)
        apply(self.engine, "default", TEAM)
        self.providers = Providers(load({}, None, {}))

    def run(self, playing: Coroutine[Any, Any, T]) -> T:
        """On an event loop of its own, with its connections closed at the end."""

        async def play() -> T:
            try:
                return await playing
            finally:
                await self.providers.close()

        return asyncio.run(play())

    def submit(self, keys: Sequence[str]) -> dict[str, Assignment]:
        """A task of one step for each key, all of them claimed."""
        steps = [{"id": key, "agent": "play"} for key in keys]
        self.driver.created(Submission.model_validate({"team": "replay", "plan": {"steps": steps}}))
        return {each.key: each for each in self.driver.claim(*keys, lease_seconds=LONG_SECONDS)}

    def agent(self, tape: int, exchange: Exchange, limits: Limits) -> Agent:
        return Agent(
            kind=Kind.LLM,
            prompt="play",
            model=model_of(exchange),
            base_url=self.base_url(tape),
            settings=Sampling(stream=exchange.stream, silence_seconds=self.silence_seconds),
            limits=limits,
        )

    async def attempt(
        self,
        assignment: Assignment,
        tape: int,
        exchange: Exchange,
        *,
        limits: Limits,
        outputs: Sequence[str] = (),
        answers: Answers = lambda name: "done",
    ) -> Outcome:
        """One attempt from a recorded request on, with the recorded tools."""
        agent = self.agent(tape, exchange, limits)
        model = self.providers.model(agent)
        tools = [_tool(name, answers) for name in exchange.offered if name not in outputs]
        brief = RecordedBrief(
            model.model_id, system="", user="", tools=tools, outputs=RecordedOutputs(outputs), agent=agent,
            exchange=exchange,
        )  # fmt: skip
        store = ArtifactStore(self.engine, "default", None)
        sources = Sources(assignment, store, Lineage(self.engine, "default", assignment.step_id))
        talk = Talk(
            model,
            brief,
            assignment,
            journal=Journal(self.engine, store, assignment),
            desk=Desk(sources, lambda: datetime.now(UTC)),
            progress=ignore_progress,
            redact=self.providers.redact,
            blocking=asyncio.to_thread,
        )
        return await talk.run()

    def settle(self, assignment: Assignment, outcome: Outcome) -> None:
        self.write(assignment, decide(assignment, outcome, (), TEAM, chance=0.0))

    def write(self, assignment: Assignment, settlement: Settlement) -> None:
        assert self.driver.settle(assignment, settlement)[0]

    def calls(self) -> Mapping[str, list[dict[str, Any]]]:
        """The journal's rows by step."""
        rows = self.driver.query(
            """select s.key, c.ending, c.input_tokens, c.output_tokens from model_calls c
            join steps s on s.id = c.step_id order by c.epoch, c.ordinal"""
        )
        found: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            found.setdefault(row["key"], []).append(row)
        return found


def model_of(exchange: Exchange) -> str:
    """As a team would name the recorded model."""
    dialect = exchange.dialect or "responses"
    provider = HOSTS.get(exchange.host, PROVIDERS[dialect]) if dialect == "chat" else PROVIDERS[dialect]
    return f"{provider}:{exchange.request.get('model') or 'any'}"


def _tool(name: str, answers: Answers) -> Tool:
    return Tool(name, "As recorded.", Anything, lambda desk, arguments: Success({"answer": answers(name)}))


async def gather_some(makers: Sequence[Callable[[], Awaitable[None]]], at_once: int = 16) -> None:
    """All of them, so many at a time."""
    room = asyncio.Semaphore(at_once)

    async def one(make: Callable[[], Awaitable[None]]) -> None:
        async with room:
            await make()

    await asyncio.gather(*(one(make) for make in makers))
