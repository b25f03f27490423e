"""The SDK's part of tracing: imported only where traces are sent, since it is an extra and takes time to import."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

QUEUE_SIZE = 16_384
"""Spans that may wait to be sent, unless `OTEL_BSP_MAX_QUEUE_SIZE` says otherwise: a busy worker ends thousands a
second, and one that is dropped may be the parent of others."""


class SpanIds(RandomIdGenerator):
    """Random ones, but for spans whose id is given."""

    def __init__(self) -> None:
        self._given = threading.local()

    @contextmanager
    def giving(self, span_id: int | None) -> Iterator[None]:
        """What this thread begins meanwhile has this id."""
        self._given.id = span_id
        try:
            yield
        finally:
            self._given.id = None

    def generate_span_id(self) -> int:
        given: int | None = getattr(self._given, "id", None)
        return given or super().generate_span_id()


def make_provider(process: str, instance: str, environ: Mapping[str, str]) -> TracerProvider:
    """Endpoint, headers, limits, sampler and resource are what the standard variables say.

    It is not made the process's global one: libraries that trace by themselves would have each request told twice.
    """
    ours = {"service.name": process, "service.version": version("agent-orchestrator"), "service.instance.id": instance}
    # Given attributes win over the variables' in `create`: so what the variables say is given as well.
    said = OTELResourceDetector().detect().attributes
    resource = Resource.create({**{name: value for name, value in ours.items() if value}, **said})
    provider = TracerProvider(resource=resource, id_generator=SpanIds(), shutdown_on_exit=False)
    size = None if environ.get("OTEL_BSP_MAX_QUEUE_SIZE") else QUEUE_SIZE
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), max_queue_size=size))
    return provider
