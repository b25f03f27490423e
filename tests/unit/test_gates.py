"""The seam itself and the schema gate."""

import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from contracts.verdicts import Reason, Result, Verdict
from workers.gates import Subject, check_names, run_gates
from workers.gates.schema import DEPTH_LIMIT, close

SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "count": {"type": "integer"}},
    "required": ["title"],
}


def pass_always(subject: Subject) -> list[Reason]:
    return []


def fail_always(subject: Subject) -> list[Reason]:
    return [Reason(code="mine", where="/title", text="no", expected="yes")]


def verdict_always(subject: Subject) -> Verdict:
    return Verdict(gate="another name", version=7, result=Result.PASS)


def raise_always(subject: Subject) -> list[Reason]:
    raise ValueError("secret words of the output")


def time_out(subject: Subject) -> list[Reason]:
    raise TimeoutError("a socket's, not the gate's own deadline")


def leave(subject: Subject) -> list[Reason]:
    raise SystemExit(0)


def say_true(subject: Subject) -> bool:
    return True


def say_nothing(subject: Subject) -> None:
    return None


def hang(subject: Subject) -> list[Reason]:
    threading.Event().wait(30)
    return []


NOT_A_FUNCTION = 3


def judge(output: Any, *names: str, **more: Any) -> tuple[Verdict, ...]:
    return run_gates(names, Subject(agent="a", output=output, **more))


def mine(name: str) -> str:
    return f"{__name__}:{name}"


def test_schema_gate_runs_first_and_once() -> None:
    verdicts = judge({"title": "x"}, mine("pass_always"), "schema", output_schema=SCHEMA)
    assert [(verdict.gate, verdict.result) for verdict in verdicts] == [
        ("schema", Result.PASS),
        (mine("pass_always"), Result.PASS),
    ]
    assert all(verdict.seconds > 0 for verdict in verdicts)


def test_stops_at_the_first_that_does_not_pass() -> None:
    verdicts = judge({}, mine("fail_always"), mine("pass_always"))
    assert [verdict.result for verdict in verdicts] == [Result.PASS, Result.FAIL]
    assert verdicts[-1].reasons[0].expected == "yes"
    assert [verdict.gate for verdict in judge({}, mine("pass_always"), output_schema=SCHEMA)] == ["schema"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (mine("raise_always"), "gate.error"),
        (mine("time_out"), "gate.error"),
        (mine("leave"), "gate.error"),
        (mine("say_true"), "gate.error"),
        (mine("say_nothing"), "gate.error"),
        (mine("NOT_A_FUNCTION"), "gate.not_importable"),
        (mine("absent"), "gate.not_importable"),
        ("no_such_module_at_all:gate", "gate.not_importable"),
        ("no_such_gate", "gate.unknown"),
    ],
)
def test_what_cannot_decide_abstains(name: str, code: str) -> None:
    verdict = judge({"title": "x"}, name, mine("pass_always"))[-1]
    assert (verdict.gate, verdict.result, verdict.reasons[0].code) == (name, Result.ABSTAIN, code)
    assert "secret" not in verdict.reasons[0].text


def test_a_gate_that_hangs_abstains() -> None:
    verdict = run_gates([mine("hang")], Subject(agent="a", output={}), timeout_seconds=0.05)[-1]
    assert (verdict.result, verdict.reasons[0].code) == (Result.ABSTAIN, "gate.timeout")


def test_a_gate_may_return_its_own_verdict_but_not_its_own_name() -> None:
    verdict = judge({}, mine("verdict_always"))[-1]
    assert (verdict.gate, verdict.version, verdict.result) == (mine("verdict_always"), 7, Result.PASS)


def test_unknown_names_are_listed() -> None:
    assert check_names(["schema", "files", "fils", "a.b:c"]) == ["fils"]


@pytest.mark.parametrize(
    ("output", "code", "where"),
    [
        ({"title": 3}, "schema.type", "/title"),
        ({"count": 1}, "schema.required", ""),
        ({"title": "x", "more": 1}, "schema.additionalProperties", ""),
        ({"title": "a\0b"}, "schema.not_json", "/title"),
        ({"title": "\ud800"}, "schema.not_json", "/title"),
        ({"\0": 1}, "schema.not_json", ""),
        ({1: 1}, "schema.not_json", ""),
        ({"title": float("nan")}, "schema.not_json", "/title"),
        ({"title": float("inf")}, "schema.not_json", "/title"),
        ({"count": 10**5000}, "schema.not_json", "/count"),
        ({"title": b"bytes"}, "schema.not_json", "/title"),
        ({"a/b~": {1, 2}}, "schema.not_json", "/a~1b~0"),
        ({"title": "x" * 2000}, "schema.too_large", ""),
        ([], "schema.type", ""),
    ],
)
def test_schema_gate_refuses(output: Any, code: str, where: str) -> None:
    verdict = judge(output, output_schema=SCHEMA, output_bytes_limit=1000)[0]
    assert verdict.result is Result.FAIL
    assert (verdict.reasons[0].code, verdict.reasons[0].where) == (code, where)


def test_depth_is_limited_without_recursion() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    verdict = judge(deep)[0]
    assert (verdict.result, verdict.reasons[0].code) == (Result.FAIL, "schema.too_deep")
    fits: list[Any] = []
    for _ in range(DEPTH_LIMIT - 1):
        fits = [fits]
    assert judge(fits)[0].result is Result.PASS


def test_words_of_the_output_stay_out_of_the_reasons() -> None:
    verdict = judge({"title": ["a secret"]}, output_schema=SCHEMA)[0]
    assert verdict.result is Result.FAIL
    assert "a secret" not in verdict.model_dump_json()


@pytest.mark.parametrize(
    "schema",
    [{"$ref": "http://127.0.0.1:9/schema"}, {"$ref": "file:///etc/passwd"}, {"type": "strange"}, {"$ref": "#/absent"}],
)
def test_a_wrong_schema_abstains_and_nothing_is_fetched(schema: dict[str, Any]) -> None:
    verdict = judge({}, output_schema=schema)[0]
    assert (verdict.result, verdict.reasons[0].code) == (Result.ABSTAIN, "gate.error")


def test_no_file_and_no_server_is_asked_for_a_schema(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text("true")
    verdict = judge({}, output_schema={"$ref": (tmp_path / "schema.json").as_uri()})[0]
    assert verdict.result is Result.ABSTAIN
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert judge({}, output_schema={"$ref": f"http://127.0.0.1:{port}/schema"})[0].result is Result.ABSTAIN
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_close_reaches_nested_objects_and_leaves_open_ones() -> None:
    inner = {"type": "object", "properties": {"properties": {"type": "string"}}}
    schema = {
        "type": "object",
        "properties": {"inner": {"$ref": "#/$defs/Inner"}, "open": {"type": "object", "additionalProperties": True}},
        "$defs": {"Inner": inner},
    }
    closed = close(schema)
    assert closed["$defs"]["Inner"] == {**inner, "additionalProperties": False}
    assert closed["properties"]["open"]["additionalProperties"] is True
    assert judge({"inner": {"stranger": 1}}, output_schema=schema)[0].result is Result.FAIL
    assert judge({"inner": {"properties": "x"}, "open": {"any": 1}}, output_schema=schema)[0].result is Result.PASS
