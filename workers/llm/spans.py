"""The span of one call to a model, in the words of OpenTelemetry's conventions for generative AI; all of them are here.

Those conventions still change: what is renamed there is renamed here and nowhere else. Prompts and answers are in the
journal, never in a span.
"""

from types import TracebackType
from typing import Any, Self

from opentelemetry.trace import SpanKind
from pydantic_ai.messages import ModelResponse
from pydantic_ai.models import Model
from pydantic_ai.settings import ModelSettings

from contracts.assignments import Assignment
from shared_state.telemetry import Tracing, note, note_failure

_OPERATION = "chat"


class ModelCall:
    """As a context manager around the call; an exception that passes through it, a cancellation included, ends it
    as failed."""

    def __init__(
        self, tracing: Tracing, assignment: Assignment, model: Model, settings: ModelSettings, conversation: str
    ) -> None:
        said: dict[str, Any] = dict(settings)
        self._span = tracing.begin(
            f"{_OPERATION} {model.model_name}",
            assignment.traceparent,
            {
                "gen_ai.operation.name": _OPERATION,
                "gen_ai.provider.name": model.system,
                "gen_ai.request.model": model.model_name,
                "gen_ai.request.max_tokens": said.get("max_tokens"),
                "gen_ai.request.temperature": said.get("temperature"),
                "gen_ai.conversation.id": conversation,
                "gen_ai.agent.name": assignment.agent,
            },
            kind=SpanKind.CLIENT,
        )

    def __enter__(self) -> Self:
        return self

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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            note_failure(self._span, kind.__name__)
        self._span.end()
