"""Traces: the spans of this process, by OpenTelemetry; on only where the standard variables name a collector.

A task's context travels as W3C text (`traceparent`) in its row, its outbox rows, its messages and its assignments.
Every parent here is such a text, never what the current thread happens to be at, so that a span has the parent that is
written down for it in whatever process it begins. Spans hold ids, names and numbers: no payload, no secret.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from contracts.errors import Misconfigured

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
CLOSE_SECONDS = 3.0
"""How long the end of a process may wait for its last spans to be taken."""

Attributes = Mapping[str, str | int | float | Sequence[str] | None]
"""Null values are left out."""


class Tracing:
    """Begins spans and sends those that have ended, in batches, from a thread of its own. Safe from any thread."""

    def __init__(self, provider: Any) -> None:
        self.provider = provider
        """A `TracerProvider` of the SDK, for what else wants one."""
        self._tracer: Tracer = provider.get_tracer("orchestrator")

    def begin(
        self,
        name: str,
        parent: str | None,
        attributes: Attributes,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        link: SpanContext = INVALID_SPAN_CONTEXT,
        span_id: int | None = None,
        began_at: float | None = None,
    ) -> Span:
        """`parent` is a traceparent; without one the span is a trace's first. `began_at` is a Unix time."""
        with self.provider.id_generator.giving(span_id):
            return self._tracer.start_span(
                name,
                context_of(parent),
                kind,
                _without_nulls(attributes),
                [Link(link)] if link.is_valid else None,
                start_time=None if began_at is None else int(began_at * 1e9),
            )

    def close(self) -> None:
        """Send what has ended, as far as the collector takes it in time."""
        # The SDK waits as long as its exporter likes to.
        sending = threading.Thread(target=self.provider.shutdown, name="spans", daemon=True)
        sending.start()
        sending.join(CLOSE_SECONDS)


def open_tracing(process: str, *, instance: str = "", environ: Mapping[str, str] = os.environ) -> Tracing | None:
    """None where the environment names no collector. `process` names the service unless `OTEL_SERVICE_NAME` does.

    Raises `Misconfigured` where it names one that cannot be used.
    """
    named = next((name for name in ENDPOINTS if environ.get(name)), None)
    if named is None or _is_off(environ):
        return None
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), _PROTOCOL)
    if protocol != _PROTOCOL:
        raise Misconfigured(
            f"OTEL_EXPORTER_OTLP_PROTOCOL: traces are sent by {_PROTOCOL} only, not by {protocol!r}; unset it, and "
            f"name the collector's HTTP port (4318 by custom) in {named}"
        )
    try:
        from shared_state.span_export import make_provider  # the extra `telemetry`, and a fifth of a second
    except ImportError as error:
        raise Misconfigured(
            f"{named} is set, but what sends traces is not installed ({error.name}): "
            "pip install 'agent-orchestrator[telemetry]', or unset it"
        ) from error
    return Tracing(make_provider(process, instance, environ))


def context_of(traceparent: str | None) -> Context:
    """An empty one for null and for what is no traceparent."""
    if traceparent is None:
        return Context()
    return TraceContextTextMapPropagator().extract({"traceparent": traceparent}, Context())


def traceparent_of(span: Span) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def trace_id_of(traceparent: str | None) -> str | None:
    """The trace's id in hexadecimal."""
    parts = (traceparent or "").split("-")
    return parts[1] if len(parts) == 4 else None


def current() -> SpanContext:
    """Of the span this thread is in; an invalid one where it is in none."""
    return get_current_span().get_span_context()


def note(span: Span, attributes: Attributes) -> None:
    span.set_attributes(_without_nulls(attributes))


def note_failure(span: Span, code: str) -> None:
    """`code` is one of the closed list, or the name of an exception's class: no text, which may quote a payload."""
    span.set_attribute("error.type", code)
    span.set_status(Status(StatusCode.ERROR, code))


def _without_nulls(attributes: Attributes) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _is_off(environ: Mapping[str, str]) -> bool:
    disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return disabled or environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"
