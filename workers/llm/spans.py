"""The spans of calls to models and of tools, in the words of OpenTelemetry's conventions for generative AI; all of them
are here.

Those conventions still change: what is renamed there is renamed here and nowhere else. Prompts and answers are in the
journal, never in a span; nor are what a tool is asked and what it says.
"""

from types import TracebackType
from typing import Any, Self

from opentelemetry.trace import Span, SpanKind
from pydantic_ai.messages import ModelResponse
from pydantic_ai.models import Model
from pydantic_ai.settings import ModelSettings

from contracts.assignments import Assignment
from shared_state.telemetry import Tracing, note, note_failure
from workers.llm.tools import Called

_CHAT = "chat"
_EXECUTE_TOOL = "execute_tool"


class _Call:
    """As a context manager around the call; an exception that passes through it, a cancellation included, ends it
    as failed."""

    _span: Span

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            note_failure(self._span, kind.__name__)
        self._span.end()


class ModelCall(_Call):
    """One request to a model."""

    def __init__(
        self, tracing: Tracing, assignment: Assignment, model: Model, settings: ModelSettings, conversation: str
    ) -> None:
        said: dict[str, Any] = dict(settings)
        self._span = tracing.begin(
            f"{_CHAT} {model.model_name}",
            assignment.traceparent,
            {
                "gen_ai.operation.name": _CHAT,
                "gen_ai.provider.name": model.system,
                "gen_ai.request.model": model.model_name,
                "gen_ai.request.max_tokens": said.get("max_tokens"),
                "gen_ai.request.temperature": said.get("temperature"),
                "gen_ai.conversation.id": conversation,
                "gen_ai.agent.name": assignment.agent,
            },
            kind=SpanKind.CLIENT,
        )

    def note_answer(self, response: ModelResponse) -> None:
        note(
            self._span,
            {
                "gen_ai.response.model": response.model_name,
                "gen_ai.response.id": response.provider_response_id,
                "gen_ai.response.finish_reasons": [response.finish_reason] if response.finish_reason else None,
                "gen_ai.usage.input_tokens": response.usage.input_tokens,
                "gen_ai.usage.output_tokens": response.usage.output_tokens,
                "gen_ai.usage.cache_read.input_tokens": response.usage.cache_read_tokens or None,
            },
        )


class ToolCall(_Call):
    """One call of a tool; `call_id` is the model's."""

    def __init__(self, tracing: Tracing, assignment: Assignment, tool: str, call_id: str, conversation: str) -> None:
        self._span = tracing.begin(
            f"{_EXECUTE_TOOL} {tool}",
            assignment.traceparent,
            {
                "gen_ai.operation.name": _EXECUTE_TOOL,
                "gen_ai.tool.name": tool,
                "gen_ai.tool.type": "function",
                "gen_ai.tool.call.id": call_id,
                "gen_ai.conversation.id": conversation,
                "gen_ai.agent.name": assignment.agent,
            },
        )

    def note_answer(self, called: Called) -> None:
        if called.code is not None:
            note_failure(self._span, called.code)
