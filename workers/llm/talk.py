"""One attempt of an LLM agent: ask, write down, and only then follow what was answered, until it ends.

The journal is where a conversation lives. An attempt begins with its last answer, wherever and whenever that came, so
nothing that was answered is asked, and paid, again.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from pydantic_ai.direct import model_request, model_request_stream
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    TextPartDelta,
    ThinkingPartDelta,
    ToolCallPart,
    ToolCallPartDelta,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model
from pydantic_ai.usage import RequestUsage

from contracts.assignments import Assignment
from contracts.context import Progress
from contracts.errors import Unavailable
from contracts.outcomes import Failed, Outcome
from shared_state.crash_points import crash_point
from shared_state.model_calls import Call, Past, Recorded
from shared_state.telemetry import Tracing
from workers.llm.bounds import Bounds
from workers.llm.brief import Brief, words_of
from workers.llm.causes import ending_of_error
from workers.llm.endings import Course, Ending, Kind, ending_of_response, ending_of_text
from workers.llm.outputs import ASK, Unusable, calls_of, request_of, text_of
from workers.llm.spans import ModelCall, ToolCall
from workers.llm.tools import Called, Desk, Tool, ToolCode, call, refuse

_CHARACTERS_SHOWN_AS_TOKEN = 4
_ENDED_BEFORE = "Not done: your work ended with another call."


class Journal(Protocol):
    """`shared_state.model_calls.Journal`; it blocks."""

    def read(self, conversation: str) -> Recorded: ...

    def write(self, call: Call) -> None: ...


Blocking = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs what blocks in a thread."""


class Talk:
    """`run` comes to an outcome, or is cancelled."""

    def __init__(
        self,
        model: Model,
        brief: Brief,
        assignment: Assignment,
        *,
        journal: Journal,
        desk: Desk,
        progress: Progress,
        redact: Callable[[str], str],
        blocking: Blocking,
        tracing: Tracing | None = None,
    ) -> None:
        self._model = model
        self._brief = brief
        self._assignment = assignment
        self._journal = journal
        self._desk = desk
        self._progress = progress
        self._redact = redact
        self._blocking = blocking
        self._tracing = tracing
        self._tools = {tool.name: tool for tool in brief.tools}
        self._messages: list[ModelMessage] = []
        self._bounds = Bounds(brief.agent.limits)
        self._ordinal = 0
        self.log: list[str] = []
        """A line for each turn, for the attempt's record."""

    async def run(self) -> Outcome:
        recorded: Recorded = await self._patiently(lambda: self._journal.read(self._brief.digest))
        outcome = await self._resume(recorded)
        while outcome is None:
            over = self._bounds.check_call(len(self._dump(self._messages)))
            if over is not None:
                return Failed(failure=over)
            response, ending = await self._ask()
            if response is None or ending.course is Course.FAIL:
                return self._failed(ending)
            outcome = await self._follow(response, ending)
        return outcome

    async def _resume(self, recorded: Recorded) -> Outcome | None:
        """Go on from where an earlier attempt stopped, or begin."""
        if recorded.request is None:
            self._messages = self._brief.opening(self._assignment)
            self._bounds = Bounds(self._brief.agent.limits, recorded.counted)
            return None
        self._messages = ModelMessagesTypeAdapter.validate_python(recorded.request["messages"])
        response = ModelMessagesTypeAdapter.validate_python([recorded.response])[0]
        if not isinstance(response, ModelResponse):
            raise TypeError("the journal's answer is none")
        answers = [each for each in self._messages if isinstance(each, ModelResponse)]
        turns = sum(each.answered for each in recorded.counted)
        # The last answer's requests are counted when they are carried out.
        counted = answers[len(answers) + 1 - turns :] if turns > 1 else []
        asked = [request_of(each) for answer in counted for each in self._tool_calls(answer)]
        self._bounds = Bounds(self._brief.agent.limits, recorded.counted, asked)
        self.log.append(f"goes on after {turns} turns")
        ending = self._judge(response)
        if recorded.refused and ending.course is Course.USE:
            self._tell(response, words_of(self._assignment.feedback))
            return None
        if recorded.answer is not None and any(each.tool_name == ASK for each in calls_of(response)):
            self._tell(response, f"A person answered: {recorded.answer}")
            return None
        return await self._follow(response, ending)

    async def _follow(self, response: ModelResponse, ending: Ending) -> Outcome | None:
        """What an answer leads to: the end, or the next request."""
        if ending.course is Course.TELL:
            self._tell(response, ending.words)
            return None
        if self._brief.outputs.ends(response):
            outcome = self._brief.outputs.read(response)
            if not isinstance(outcome, Unusable):
                return outcome
        calls = self._tool_calls(response)
        over = self._bounds.check_tools([request_of(each) for each in calls])
        if over is not None:
            return Failed(failure=over)
        parts = []
        for each in calls:
            self._progress(f"turn {self._bounds.turns}: {each.tool_name}")
            done = await self._use(each)
            if done.detail:
                self.log.append(f"{each.tool_name}: {done.detail[-1000:]}")
            parts.append(ToolReturnPart(each.tool_name, done.text, tool_call_id=each.tool_call_id))
        self._messages += [response, ModelRequest(parts=parts)]
        return None

    async def _use(self, asked: ToolCallPart) -> Called:
        name, arguments = asked.tool_name, asked.args if isinstance(asked.args, str | dict) else ""
        tool = self._tools.get(name)
        if tool is None:
            return refuse(ToolCode.UNKNOWN, f"there is no tool {name!r}; there are: {', '.join(sorted(self._tools))}")
        if self._tracing is None:
            return await self._call(tool, arguments)
        with ToolCall(self._tracing, self._assignment, name, asked.tool_call_id, self._brief.digest) as span:
            done = await self._call(tool, arguments)
            span.note_answer(done)
            return done

    async def _call(self, tool: Tool, arguments: str | dict[str, Any]) -> Called:
        done: Called = await self._blocking(lambda: call(tool, self._desk, arguments))
        return done

    async def _ask(self) -> tuple[ModelResponse | None, Ending]:
        """One request to the model, in the journal before anything follows from it."""
        self._ordinal += 1
        sent = self._dump(self._brief.body(ModelMessagesTypeAdapter.dump_python(self._messages, mode="json")))
        began = time.monotonic()
        response: ModelResponse | None = None
        try:
            response = await self._traced_request()
            ending = self._judge(response)
        except Exception as error:  # the edge to the client libraries: whatever they raise is an ending
            ending = ending_of_error(error)
        usage = response.usage if response is not None else RequestUsage()
        past = Past(
            ending=ending.kind,
            told=ending.course is Course.TELL,
            answered=response is not None,
            tool_calls=len(self._tool_calls(response)) if response is not None else 0,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
        )
        noted = Call(
            ordinal=self._ordinal,
            conversation=self._brief.digest,
            model=self._brief.model,
            settings=self._brief.settings,
            past=past,
            kept=response is not None and ending.course is not Course.FAIL,
            seconds=time.monotonic() - began,
            request=self._redact(sent).encode(),
            response=None if response is None else self._redact(self._dump_response(response)).encode(),
        )
        crash_point("C10", when=response is not None)
        await self._patiently(lambda: self._journal.write(noted))
        crash_point("C11", when=response is not None)
        self._bounds.count(past)
        self.log.append(
            f"turn {self._bounds.turns}: {ending.kind}, {usage.input_tokens} tokens read, "
            f"{usage.output_tokens} written, {noted.seconds:.1f} s"
        )
        return response, ending

    async def _traced_request(self) -> ModelResponse:
        if self._tracing is None:
            return await self._request()
        settings = self._brief.settings_within(self._bounds.output_tokens_left)
        with ModelCall(self._tracing, self._assignment, self._model, settings, self._brief.digest) as call:
            response = await self._request()
            call.note_answer(response)
            return response

    async def _request(self) -> ModelResponse:
        settings = self._brief.settings_within(self._bounds.output_tokens_left)
        parameters = self._brief.parameters
        turn = self._bounds.turns + 1
        self._progress(f"turn {turn}: {self._bounds.tokens} tokens so far")
        if not self._brief.agent.settings.stream:
            return await model_request(
                self._model, self._messages, model_settings=settings, model_request_parameters=parameters
            )
        characters = 0
        async with model_request_stream(
            self._model, self._messages, model_settings=settings, model_request_parameters=parameters
        ) as stream:
            async for event in stream:
                if isinstance(event, PartDeltaEvent):
                    characters += _length(event.delta)
                    tokens = self._bounds.tokens + characters // _CHARACTERS_SHOWN_AS_TOKEN
                    self._progress(f"turn {turn}: {tokens} tokens so far")
            return stream.get()

    def _judge(self, response: ModelResponse) -> Ending:
        """What an answer is, its form included."""
        ending = ending_of_response(response, tools=self._brief.names)
        outputs = self._brief.outputs
        if ending.course is not Course.USE or not outputs.ends(response):
            return ending
        if ending.kind is Kind.ANSWERED and not outputs.text_ends:
            of_text = ending_of_text(text_of(response))
            if of_text.course is not Course.USE:
                return of_text
        read = outputs.read(response)
        if isinstance(read, Unusable):
            return Ending(Kind.TOOL_ARGUMENTS, "the model's output does not have the asked form", read.words)
        return ending

    def _tell(self, response: ModelResponse, words: str) -> None:
        """Go on with what came of an answer: said to each of its calls, which want one, or as a message."""
        calls = calls_of(response)
        names = self._brief.outputs.names
        about = next((each for each in calls if each.tool_name in names), calls[0] if calls else None)
        parts: list[Any] = [
            ToolReturnPart(each.tool_name, words if each is about else _ENDED_BEFORE, tool_call_id=each.tool_call_id)
            for each in calls
        ] or [UserPromptPart(words)]
        if response.parts:
            self._messages.append(response)
        self._messages.append(ModelRequest(parts=parts))

    def _tool_calls(self, response: ModelResponse) -> list[Any]:
        """Calls of tools that do something; none where the answer ends the work."""
        return [] if self._brief.outputs.ends(response) else calls_of(response)

    def _failed(self, ending: Ending) -> Failed:
        failed = ending.outcome()
        detail = failed.failure.detail
        if detail is None:
            return failed
        return failed.model_copy(update={"failure": failed.failure.model_copy(update={"detail": self._redact(detail)})})

    async def _patiently(self, work: Callable[[], Any]) -> Any:
        """While Postgres is away: what was paid for must not be lost. Ends with the lease, which cancels this."""
        pause = 0.1
        while True:
            try:
                return await self._blocking(work)
            except Unavailable:
                await asyncio.sleep(pause)
                pause = min(2.0, pause * 2)

    @staticmethod
    def _dump(value: Any) -> str:
        if isinstance(value, list):
            return ModelMessagesTypeAdapter.dump_json(value).decode()
        return json.dumps(value, ensure_ascii=False)

    @staticmethod
    def _dump_response(response: ModelResponse) -> str:
        plain: Sequence[Any] = ModelMessagesTypeAdapter.dump_python([response], mode="json")
        return json.dumps(plain[0], ensure_ascii=False)


def _length(delta: Any) -> int:
    match delta:
        case TextPartDelta() | ThinkingPartDelta():
            return len(delta.content_delta or "")
        case ToolCallPartDelta():
            return len(delta.args_delta) if isinstance(delta.args_delta, str) else 0
        case _:
            return 0
