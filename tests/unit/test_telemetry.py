"""Tracing is off unless a collector is named, costs nothing then, and says what is wrong where it cannot be on."""

import subprocess
import sys

import pytest

from contracts.errors import Misconfigured
from shared_state.telemetry import context_of, open_tracing, trace_id_of

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
OFF: list[dict[str, str]] = [
    {},
    {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
    {"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_SAMPLER": "always_on"},
    {**ENDPOINT, "OTEL_SDK_DISABLED": "true"},
    {**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"},
]


@pytest.mark.parametrize("environ", OFF)
def test_it_is_off(environ: dict[str, str]) -> None:
    assert open_tracing("x", environ=environ) is None


def run(program: str) -> str:
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_off_imports_nothing_that_sends() -> None:
    """redis-py imports the SDK's metrics by itself, where there is one; that is its own affair."""
    program = """
import sys
import workers.app, orchestrator.api.serve, orchestrator.loops.main
sending = ("shared_state.span_export", "opentelemetry.sdk.trace", "opentelemetry.exporter")
print([name for name in sys.modules if name.startswith(sending)])
"""
    assert run(program) == "[]"


def test_without_the_extra_it_is_refused_with_the_remedy() -> None:
    program = f"""
import sys
sys.modules["opentelemetry.exporter.otlp.proto.http.trace_exporter"] = None
from contracts.errors import Misconfigured
from shared_state.telemetry import open_tracing
try:
    open_tracing("x", environ={ENDPOINT!r})
except Misconfigured as error:
    print(error.text)
"""
    assert "pip install 'agent-orchestrator[telemetry]'" in run(program)


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"])
def test_another_protocol_is_refused(name: str) -> None:
    with pytest.raises(Misconfigured, match="http/protobuf"):
        open_tracing("x", environ={**ENDPOINT, name: "grpc"})


def test_what_the_variables_say_of_the_service_comes_before_what_we_say() -> None:
    program = """
import os
from shared_state.span_export import make_provider
def named(**environ):
    os.environ.update(environ)
    return make_provider("ours", "w1", os.environ).resource.attributes
print(named()["service.name"], named(OTEL_RESOURCE_ATTRIBUTES="service.name=a,team=b")["service.name"],
    named(OTEL_SERVICE_NAME="c")["service.name"], named()["service.instance.id"], named()["team"])
"""
    assert run(program) == "ours a c w1 b"


def test_a_collector_that_does_not_answer_holds_nobody_up() -> None:
    program = """
import socket, time
from shared_state.telemetry import open_tracing
silent = socket.create_server(("127.0.0.1", 0))
endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
import os
os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
tracing = open_tracing("x")
tracing.begin("lost", None, {}).end()
began = time.monotonic()
tracing.close()
print(time.monotonic() - began < 4)
"""
    assert run(program) == "True"


@pytest.mark.parametrize("text", [None, "", "strange", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_what_is_no_context_is_none(text: str | None) -> None:
    assert not context_of(text)


def test_the_id_of_a_trace() -> None:
    assert trace_id_of("00-" + "a" * 32 + "-" + "b" * 16 + "-01") == "a" * 32
    assert trace_id_of(None) is None
