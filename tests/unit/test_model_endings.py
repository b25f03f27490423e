"""How calls to models end: real client libraries against a loopback server, in the three dialects, whole and streamed.

What each case must come to is written here by hand; the recorded traffic is in tests/integration/test_model_replay.py.
"""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, NamedTuple

import pytest
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelRequest, UserPromptPart
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.tools import ToolDefinition

from contracts.errors import CODES
from contracts.llm import Sampling
from contracts.teams import Agent
from contracts.teams import Kind as AgentKind
from shared_state.settings import load
from tests.providers.asked import Ask
from tests.providers.asking import request
from tests.providers.cassettes import Broken, CassetteServer, Fault
from tests.providers.recordings import Exchange
from tests.providers.wire import Answer, Call, stream, whole
from workers.llm.causes import LONGEST_WAIT_SECONDS, ending_of_error
from workers.llm.endings import Course, Ending, Kind, ending_of_response, ending_of_text
from workers.llm.providers import Providers
from workers.llm.wire import Fault as WireFault
from workers.llm.wire import Wrong

PROVIDERS = {"chat": "openai-chat", "responses": "openai-responses", "messages": "anthropic"}
PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
DIALECTS = tuple(PATHS)
SILENCE_SECONDS = 0.5
HTML = "<html><body>502 Bad Gateway: key sk-canary</body></html>"
CANARY = "sk-canary"
SCHEMA = {"type": "object", "properties": {"at": {"type": "string"}}}
CALL = Call("call_1", "look", '{"at": "it"}')


class Case(NamedTuple):
    name: str
    dialect: str
    streamed: bool
    exchange: Exchange
    ending: str
    broken: Broken | None = None


def exchange(dialect: str, streamed: bool, response: Any, status: int = 200, **headers: str) -> Exchange:
    kind = "text/event-stream" if streamed and isinstance(response, str) else "application/json"
    given = {"content-type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return Exchange("unit", 0, "loopback", PATHS[dialect], {"stream": streamed}, status, given, response)


def said(
    dialect: str, streamed: bool, text: str = "Paris", calls: Sequence[Call] = (), finish: str | None = None
) -> Any:
    """An answer as the provider writes it: an object, or the text of a stream."""
    ask = Ask(0, 0.0, PATHS[dialect], dialect, {}, {"stream_options": {"include_usage": True}})
    answer = Answer("r1", text, tuple(calls), finish or ("tool_calls" if calls else "stop"), 10, 20)
    return b"".join(stream(ask, answer)).decode() if streamed else whole(ask, answer)


def changed(dialect: str, **fields: Any) -> Any:
    """A whole answer with other fields: of its choice or message in chat, of itself in the other dialects."""
    body = said(dialect, False)
    if dialect != "chat":
        return {**body, **fields}
    choice = body["choices"][0]
    choice["message"] |= {name: value for name, value in fields.items() if name != "finish_reason"}
    choice |= {name: value for name, value in fields.items() if name == "finish_reason"}
    return body


def without_last_events(text: str, count: int) -> str:
    """The first events of a stream."""
    return "\n\n".join(text.split("\n\n")[:-1][:-count]) + "\n\n"


def cases() -> list[Case]:
    made: list[Case] = []

    def add(
        name: str, dialect: str, streamed: bool, given: Exchange, ending: str, broken: Broken | None = None
    ) -> None:
        made.append(Case(f"{dialect}{'-stream' if streamed else ''}: {name}", dialect, streamed, given, ending, broken))

    def error(kind: str, code: str | None, message: str = f"no: {CANARY}") -> Any:
        return {"type": "error", "error": {"type": kind, "code": code, "message": message}}

    statuses: list[tuple[int, str, Any]] = [
        (400, "bad_request", error("invalid_request_error", "invalid_value")),
        (401, "auth", error("authentication_error", "invalid_api_key")),
        (402, "quota", error("billing_error", None)),
        (403, "auth", error("permission_error", None)),
        (404, "not_found", error("not_found_error", "model_not_found")),
        (408, "timeout", error("timeout_error", None)),
        (409, "overloaded", error("conflict", None)),
        (413, "context_window", error("request_too_large", None)),
        (422, "bad_request", error("invalid_request_error", None)),
        (429, "rate_limited", error("rate_limit_error", "rate_limit_exceeded")),
        (500, "server_error", error("api_error", None)),
        (502, "server_error", HTML),
        (503, "overloaded", error("overloaded_error", None)),
        (504, "server_error", error("timeout_error", None)),
        (529, "overloaded", error("overloaded_error", None)),
        (400, "filtered", error("invalid_request_error", "content_filter")),
        (400, "filtered", error("invalid_request_error", None, "Output blocked by content filtering policy")),
        (400, "tool_rejected", error("invalid_request_error", "tool_use_failed")),
    ]
    for dialect in DIALECTS:
        for streamed in (False, True):
            add("text", dialect, streamed, exchange(dialect, streamed, said(dialect, streamed)), "answered")
            add(
                "tool call", dialect, streamed,
                exchange(dialect, streamed, said(dialect, streamed, "", [CALL])), "tool_calls",
            )  # fmt: skip
            add(
                "unknown tool", dialect, streamed,
                exchange(dialect, streamed, said(dialect, streamed, "", [CALL._replace(name="jump")])), "unknown_tool",
            )  # fmt: skip
            add(
                "cut off", dialect, streamed,
                exchange(dialect, streamed, said(dialect, streamed, finish="length")), "cut_off",
            )  # fmt: skip
            add(
                "a whole tool call in a cut off answer", dialect, streamed,
                exchange(dialect, streamed, said(dialect, streamed, "", [CALL], "length")), "cut_off",
            )  # fmt: skip
            add(
                "part of an answer, then the filter", dialect, streamed,
                exchange(dialect, streamed, said(dialect, streamed, finish="content_filter")),
                "refused" if dialect == "messages" else "filtered",
            )  # fmt: skip
            add("empty", dialect, streamed, exchange(dialect, streamed, said(dialect, streamed, "")), "empty")
            add("blank", dialect, streamed, exchange(dialect, streamed, said(dialect, streamed, " \n")), "empty")
            if not (dialect == "messages" and not streamed):
                for arguments in ('{"at": "i', '["it"]', "it"):
                    half = said(dialect, streamed, "", [CALL._replace(arguments=arguments)])
                    add(
                        f"arguments {arguments}", dialect, streamed, exchange(dialect, streamed, half), "tool_arguments"
                    )
            for fault, ending in (
                (Fault.RATE_LIMIT, "rate_limited"),
                (Fault.RATE_LIMIT_BARE, "rate_limited"),
                (Fault.SERVER_ERROR, "server_error"),
                (Fault.HTML, "not_json"),
                (Fault.SILENCE, "timeout"),
                (Fault.CUT_HARD, "cut_stream"),
            ):
                broken = Broken(fault, at=0.5, seconds=5)
                add(fault, dialect, streamed, exchange(dialect, streamed, said(dialect, streamed)), ending, broken)
            html = exchange(dialect, streamed, HTML)
            add("HTML that calls itself JSON or events", dialect, streamed, html, "not_json")
            redirect = exchange(dialect, streamed, "", 307, location="http://127.0.0.1:9/elsewhere")
            add("redirect", dialect, streamed, redirect, "redirected")
            for place, (status, ending, body) in enumerate(statuses):
                add(f"{status} {ending} ({place})", dialect, streamed, exchange(dialect, False, body, status), ending)
        whole_ = exchange(dialect, False, said(dialect, False))
        add("whole body cut in order", dialect, False, whole_, "not_json", Broken(Fault.CUT_POLITELY, at=0.5))
        add("one object instead of a stream", dialect, True, whole_, "malformed")
        add("nothing in the stream", dialect, True, exchange(dialect, True, ""), "cut_stream")
        for kind, ending in (("rate_limit_error", "rate_limited"), ("api_error", "server_error")):
            body = {"error": {"type": kind, "message": f"inside: {CANARY}", "code": None}}
            add(f"{kind} in a 200", dialect, False, exchange(dialect, False, body), ending)
            add(f"{kind} in a 200 instead of a stream", dialect, True, exchange(dialect, False, body), ending)
        for body in ({"error": "boom"}, {"error": {"message": "boom"}}):
            add(f"{body}", dialect, False, exchange(dialect, False, body), "error_in_answer")
        for body in ({}, [1], None, {"choices": []}, {"detail": "no"}):
            add(f"{body}", dialect, False, exchange(dialect, False, json.dumps(body)), "malformed")
        text = said(dialect, True)
        last = {"chat": 3, "responses": 1, "messages": 2}[dialect]
        add(
            "stream cut in order", dialect, True, exchange(dialect, True, without_last_events(text, last)), "cut_stream"
        )
        add("half an event at the end", dialect, True, exchange(dialect, True, text[: len(text) // 2]), "cut_stream")
        after_end = {"chat": 1, "messages": 1}.get(dialect, 0)
        if after_end:
            rest = exchange(dialect, True, without_last_events(text, after_end))
            add("all but the last formality", dialect, True, rest, "answered")
        broken_event = text.replace("data: {", "data: {{", 1)
        add("an event that is no JSON", dialect, True, exchange(dialect, True, broken_event), "not_json")

    for kind, ending in (("overloaded_error", "overloaded"), ("invalid_request_error", "bad_request")):
        event = {"type": "error", "error": {"type": kind, "message": "x", "code": None}}
        tail = f"event: error\ndata: {json.dumps(event)}\n\n"
        for dialect in ("chat", "messages"):
            text = without_last_events(said(dialect, True), 3) + tail
            add(f"{kind} in the stream", dialect, True, exchange(dialect, True, text), ending)
    event = {"type": "error", "code": "rate_limit_exceeded", "message": "x", "param": None, "sequence_number": 3}
    text = without_last_events(said("responses", True), 5) + f"event: error\ndata: {json.dumps(event)}\n\n"
    add("rate limit in the stream", "responses", True, exchange("responses", True, text), "rate_limited")
    lost = said("responses", True).replace('"sequence_number": 4', '"sequence_number": 5')
    add("an event is missing", "responses", True, exchange("responses", True, lost), "cut_stream")

    chat = {
        "finish_reason null": ({"finish_reason": None}, "answered"),
        "finish_reason empty, as Snowflake's": ({"finish_reason": ""}, "answered"),
        "a filter of a compatible server": ({"finish_reason": "guardrail_intervened"}, "filtered"),
        "error as finish_reason": ({"finish_reason": "error"}, "error_in_answer"),
        "an unknown finish_reason": ({"finish_reason": "tired"}, "unknown_finish"),
        "a finish_reason of another server": ({"finish_reason": "eos"}, "answered"),
        "refusal": ({"content": None, "refusal": "I will not"}, "refused"),
        "null content": ({"content": None}, "empty"),
        "content in parts, as Mistral's": ({"content": [{"type": "text", "text": "Paris"}]}, "answered"),
        "a call without type, as Mistral's": (
            {"finish_reason": "tool_calls", "tool_calls": [{"id": "1", "function": {"name": "look", "arguments": ""}}]},
            "tool_calls",
        ),
        "a call without arguments": (
            {"finish_reason": "stop", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "look"}}]},
            "tool_calls",
        ),
    }  # fmt: skip
    for name, (fields, ending) in chat.items():
        add(name, "chat", False, exchange("chat", False, changed("chat", **fields)), ending)
    responses = {
        "failed": ({"status": "failed", "error": {"code": "server_error", "message": "x"}}, "server_error"),
        "failed without a word": ({"status": "failed"}, "error_in_answer"),
        "cancelled": ({"status": "cancelled"}, "error_in_answer"),
        "queued": ({"status": "queued", "background": True, "output": []}, "unfinished"),
        "in progress": ({"status": "in_progress"}, "cut_stream"),
        "no status": ({"status": None}, "answered"),
        "refusal": (
            {"output": [{"type": "message", "id": "m", "role": "assistant", "status": "completed",
                         "content": [{"type": "refusal", "refusal": "I will not"}]}]},
            "refused",
        ),
        "a hosted search": (
            {"output": [{"type": "web_search_call", "id": "w", "status": "completed",
                         "action": {"type": "search", "query": "x"}},
                        *said("responses", False)["output"]]},
            "hosted_tool",
        ),
        "an invalid prompt": ({"status": "failed", "error": {"code": "invalid_prompt", "message": "x"}}, "filtered"),
    }  # fmt: skip
    for name, (fields, ending) in responses.items():
        add(name, "responses", False, exchange("responses", False, changed("responses", **fields)), ending)
    messages = {
        "refusal": ({"stop_reason": "refusal"}, "refused"),
        "pause": ({"stop_reason": "pause_turn"}, "unfinished"),
        "the window is full": ({"stop_reason": "model_context_window_exceeded"}, "context_window"),
        "no content": ({"content": []}, "empty"),
        "an unknown stop_reason": ({"stop_reason": "tired"}, "unknown_finish"),
    }
    for name, (fields, ending) in messages.items():
        add(name, "messages", False, exchange("messages", False, changed("messages", **fields)), ending)
    long = error("invalid_request_error", None, "prompt is too long: 2 tokens > 1 maximum")
    add("too long", "messages", False, exchange("messages", False, long, 400), "context_window")
    long = error("invalid_request_error", "context_length_exceeded")
    add("too long", "chat", False, exchange("chat", False, long, 400), "context_window")
    add("quota", "chat", False, exchange("chat", False, error("x", "insufficient_quota"), 429), "quota")
    return made


CASES = cases()


@pytest.fixture(scope="module")
def endings() -> dict[str, Ending]:
    """Every case, asked at once on one event loop, each at its own address."""

    def plan(tape: int, number: int, before: int) -> Broken | None:
        return CASES[tape].broken

    async def ask_all(server: CassetteServer) -> list[Ending]:
        providers = Providers(load({}, None, {}))
        try:
            return await asyncio.gather(*(_ask(providers, server.base_url(n), case) for n, case in enumerate(CASES)))
        finally:
            await providers.close()

    with CassetteServer([[case.exchange] for case in CASES], plan) as server:
        found = asyncio.run(ask_all(server))
    assert sorted(entry.tape for entry in server.ledger) == list(range(len(CASES))), "each is asked exactly once"
    assert len({case.name for case in CASES}) == len(CASES)
    return dict(zip((case.name for case in CASES), found, strict=True))


async def _ask(providers: Providers, base_url: str, case: Case) -> Ending:
    """As `workers.llm.talk` asks."""
    agent = Agent(
        kind=AgentKind.LLM,
        prompt="any",
        model=f"{PROVIDERS[case.dialect]}:any",
        base_url=base_url,
        settings=Sampling(
            silence_seconds=SILENCE_SECONDS if case.broken and case.broken.fault is Fault.SILENCE else 30
        ),
    )
    messages: list[ModelMessage] = [ModelRequest(parts=[UserPromptPart("What is the capital of France?")])]
    parameters = ModelRequestParameters(function_tools=[ToolDefinition(name="look", parameters_json_schema=SCHEMA)])
    try:
        response = await request(providers.model(agent), messages, parameters, stream=case.streamed)
    except Exception as error:
        return ending_of_error(error)
    return ending_of_response(response, tools=["look"])


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_call_ends_as_what_came(endings: dict[str, Ending], case: Case) -> None:
    ending = endings[case.name]
    assert ending.kind == case.ending, ending.detail
    assert (ending.course is Course.USE) == (case.ending in ("answered", "tool_calls"))
    assert CANARY not in ending.text + ending.words, "what a provider says may hold anything"


def test_what_really_came_is_in_the_detail(endings: dict[str, Ending]) -> None:
    told = [case.name for case in CASES if CANARY in json.dumps(case.exchange.response)]
    assert len(told) > 50
    assert [name for name in told if CANARY not in (endings[name].detail or "")] == []


def test_every_kind_that_is_no_success_has_a_code_and_ends_as_it() -> None:
    kinds = [kind for kind in Kind if kind not in (Kind.ANSWERED, Kind.TOOL_CALLS)]
    assert {f"model.{kind}" for kind in kinds} <= set(CODES)
    ending = Ending(Kind.RATE_LIMITED, "text", detail="raw", after_seconds=7.0)
    outcome = ending.outcome()
    assert (outcome.failure.code, outcome.failure.text, outcome.failure.detail) == ("model.rate_limited", "text", "raw")
    assert outcome.after_seconds == 7.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("1.5", 1.5), ("0", 0.0), ("-3", None), ("soon", None), ("999999999", LONGEST_WAIT_SECONDS)],
)
def test_retry_after_is_read_as_people_write_it(header: str, seconds: float | None) -> None:
    error = ModelHTTPError(429, "any", {"message": "x"}, headers={"Retry-After": header})
    assert ending_of_error(error).after_seconds == seconds


def test_a_date_in_retry_after_is_a_wait_from_now() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    after = ending_of_error(ModelHTTPError(429, "any", {}, headers={"Retry-After": date})).after_seconds
    assert after is not None
    assert 50 < after <= 60


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ('{"a": 1}', "answered"),
        (" [1, 2]\n", "answered"),
        ("3", "answered"),
        ('```json\n{"a": 1}\n```', "fenced_json"),
        ('Here you are:\n{"a": [1]}\nAnything else?', "fenced_json"),
        ('{"a": 1', "half_json"),
        ('```json\n{"a": 1', "half_json"),
        ("{'a': 1}", "half_json"),
        ("I think it is Paris.", "no_json"),
        ("It is {not} JSON", "no_json"),
        (" ", "empty"),
    ],
)
def test_text_where_json_is_due(text: str, ending: str) -> None:
    found = ending_of_text(text)
    assert found.kind == ending
    assert (found.course is Course.TELL) == (ending != "answered")
    assert bool(found.words) == (ending != "answered")


def test_a_defect_in_the_client_library_is_an_answer_it_cannot_take() -> None:
    assert ending_of_error(TypeError("'NoneType' object is not iterable")).kind is Kind.MALFORMED


def test_a_fault_is_found_in_whatever_it_was_wrapped_in() -> None:
    try:
        try:
            raise WireFault(Wrong.ERROR, "inside", {"code": "rate_limit_exceeded"})
        except WireFault as error:
            raise RuntimeError("wrapped") from error
    except RuntimeError as error:
        found = ending_of_error(ExceptionGroup("all", [error]))
    assert found.kind is Kind.RATE_LIMITED
