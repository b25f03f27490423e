"""The spans of publishing: one a message, whose context the message carries to the handler that it wakes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry.trace import SpanKind

from contracts.messages import Message
from shared_state.telemetry import Tracing, note_failure, traceparent_of


@contextmanager
def publishing(tracing: Tracing, messages: Sequence[Message]) -> Iterator[list[Message]]:
    """The same messages, each with its own span's context in place of its steps'.

    Where the steps of a message are of several traces, its span begins one of its own: their attempts lead to it by
    a link.
    """
    spans = [
        tracing.begin(
            f"send {message.queue}",
            message.traceparent,
            {
                "messaging.system": "celery",
                "messaging.operation.type": "send",
                "messaging.destination.name": message.queue,
                "messaging.message.id": str(message.id),
                "messaging.batch.message_count": len(message.steps),
            },
            kind=SpanKind.PRODUCER,
        )
        for message in messages
    ]
    try:
        yield [
            message.model_copy(update={"traceparent": traceparent_of(span)})
            for message, span in zip(messages, spans, strict=True)
        ]
    except Exception as error:
        for span in spans:
            note_failure(span, type(error).__name__)
        raise
    finally:
        for span in spans:
            span.end()
