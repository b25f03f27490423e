"""A message carries the context of its own publishing, under its steps' where they have one in common."""

from collections.abc import Iterator
from uuid import UUID

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased

from contracts.errors import Unavailable
from contracts.topology import MessageKind
from shared_state.broker.spans import publishing
from shared_state.outbox import Wakeup, messages_for
from shared_state.span_export import SpanIds
from shared_state.telemetry import Tracing, context_of, trace_id_of

ONE, OTHER = (f"00-{digit * 32}-{digit * 16}-01" for digit in "12")
NOT_KEPT = f"00-{'3' * 32}-{'3' * 16}-00"


@pytest.fixture
def sent() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(sent: InMemorySpanExporter) -> Iterator[Tracing]:
    provider = TracerProvider(sampler=ParentBased(ALWAYS_ON), id_generator=SpanIds())
    provider.add_span_processor(SimpleSpanProcessor(sent))
    yield Tracing(provider)
    provider.shutdown()


def wakeups(*contexts: str | None) -> list[Wakeup]:
    """All in one message of a queue of its own."""
    return [Wakeup(UUID(int=number), 1, "q", MessageKind.EXECUTE, each) for number, each in enumerate(contexts)]


@pytest.mark.parametrize("context", [ONE, None])
def test_steps_with_one_context_share_it(context: str | None) -> None:
    messages = messages_for(wakeups(*[context] * 8))
    assert [len(message.steps) for message in messages] == [2, 2, 2, 2]
    assert {message.traceparent for message in messages} == {context}


def test_steps_of_several_contexts_have_none() -> None:
    messages = messages_for(wakeups(ONE, ONE, ONE, OTHER, OTHER, None, ONE, ONE))
    assert [message.traceparent for message in messages] == [ONE, None, None, ONE]


def test_the_message_carries_its_span_and_the_span_its_parent(tracing: Tracing, sent: InMemorySpanExporter) -> None:
    with publishing(tracing, messages_for(wakeups(ONE))) as (message,):
        pass
    (span,) = sent.get_finished_spans()
    assert span.context is not None
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == "1" * 16
    assert message.traceparent == f"00-{'1' * 32}-{span.context.span_id:016x}-{span.context.trace_flags:02x}"


def test_what_is_of_several_traces_begins_one(tracing: Tracing, sent: InMemorySpanExporter) -> None:
    with publishing(tracing, messages_for(wakeups(ONE, OTHER, ONE, OTHER, ONE, OTHER, ONE, OTHER))) as messages:
        pass
    assert [span.parent for span in sent.get_finished_spans()] == [None] * 4
    assert not {trace_id_of(message.traceparent) for message in messages} & {"1" * 32, "2" * 32}


def test_a_context_that_is_not_kept_goes_on_unkept(tracing: Tracing, sent: InMemorySpanExporter) -> None:
    with publishing(tracing, messages_for(wakeups(NOT_KEPT))) as (message,):
        pass
    assert trace_id_of(message.traceparent) == "3" * 32
    assert (message.traceparent or "").endswith("-00")
    assert context_of(message.traceparent)
    assert not sent.get_finished_spans()


def test_a_broker_that_is_away_is_told_by_name_only(tracing: Tracing, sent: InMemorySpanExporter) -> None:
    with pytest.raises(Unavailable), publishing(tracing, messages_for(wakeups(ONE))):
        raise Unavailable("redis://:secret@host is away")
    (span,) = sent.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["error.type"] == "Unavailable"
    assert "secret" not in span.to_json()
