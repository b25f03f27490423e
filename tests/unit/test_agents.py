"""Loading and calling agents: contracts from annotations, outcomes from whatever a function does."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from contracts.assignments import Assignment
from contracts.errors import Failure
from contracts.outcomes import Done, Failed, Judged, Outcome, Planned, Question, Retry, Unable
from contracts.policy import decide_failure
from contracts.settlements import Bury, Return
from contracts.teams import Agent, Role, Team
from contracts.testing import HeldArtifacts
from workers.agents.invoke import invoke, make_context
from workers.agents.load import NotImportable, load
from workers.agents.source import find_source, hash_files, take_fingerprint

AGENTS = """
from __future__ import annotations

import datetime, sys
from contracts import Context, Done, Judgement, Plan, Question, Retry, Step, Unable
from contracts.errors import AgentError, InvalidInput
from contracts.outcomes import Failed
from contracts.errors import Failure
from pydantic import BaseModel, ConfigDict

class Page(BaseModel):
    model_config = ConfigDict(strict=True)
    url: str
    seen_at: datetime.date | None = None

class Summary(BaseModel):
    title: str
    at: datetime.date | None = None

def summarise(ctx: Context, page: Page) -> Summary | Unable | Question:
    return Summary(title=page.url, at=page.seen_at)

def nothing(ctx): return ctx.goal
def echo(ctx, input): return input
def whole(ctx, input: dict) -> Done: return Done(output=Summary(title="x"), degraded="half")
def plan(ctx, input: dict) -> Plan | Question: return Plan(steps=[Step(id="a", agent="b")])
def review(ctx, output: Summary) -> Judgement:
    return Judgement.accept() if ctx.input == {"url": "u"} else Judgement.reject("wrong input")
def dated(ctx): return Plan(steps=[Step(id="a", agent="b", input={"on": datetime.date(2026, 1, 2)})])
def endless(ctx): return Plan(steps=[Step(id="a", agent="b", input={"n": float("nan")})])
def retry(ctx): return Retry(reason="later")
def ask(ctx): return Question(text="why?")
def unable(ctx): return Unable(reason="no")
def cheat(ctx): return Failed(failure=Failure(code="lease.lost", text=""))
def numbers(ctx, input: list[int]) -> int: return sum(input)

class Secretive(Exception): pass
class Coded(Exception):
    code = "agent.rate_limited"
    retryable = False
class Impostor(Exception):
    code = "task.cancelled"
def secret(ctx): raise Secretive("password=hunter2")
def coded(ctx): raise Coded("password=hunter2")
def impostor(ctx): raise Impostor()
def own(ctx): raise AgentError("agent.full", "the disk is full", retryable=False)
def ours(ctx): raise InvalidInput("the page is empty")
def leave(ctx): sys.exit(3)
def starve(ctx): raise MemoryError
def deep(ctx): return deep(ctx)

def nul(ctx): return {"a": [{"b": "x\\0y"}]}
def nul_key(ctx): return {"a": {"x\\0": 1}}
def escaped(ctx): return {"a": "\\\\u0000"}
def worded(ctx): return {"a": "NaN, -Infinity"}
def nul_reason(ctx): return Retry(reason="x\\0")
def surrogate(ctx): return ["\\ud800"]
def infinite(ctx): return {"a": float("inf")}
def opaque(ctx): return object()
def raw(ctx): return b"\\xff"
def nested(ctx):
    value = []
    for _ in range(1000): value = [value]
    return value

async def later(ctx): ...
def three(ctx, a, b): ...
def none(): ...
def keyword(ctx, *, a): ...
def forward(ctx, input: Missing): ...
value = 3
"""


@pytest.fixture
def agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    file = tmp_path / "sample_agents.py"
    file.write_text(AGENTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield file
    sys.modules.pop("sample_agents", None)


def assignment(role: Role = Role.EXECUTOR, **changes: Any) -> Assignment:
    base: dict[str, Any] = {
        "tenant": "default",
        "task_id": UUID(int=1),
        "step_id": UUID(int=2),
        "epoch": 1,
        "key": "a",
        "role": role,
        "agent": "sample",
        "team_digest": "0" * 64,
        "attempt": 1,
        "rejections": 0,
        "questions": 0,
        "goal": "the goal",
        "input": {},
    }
    return Assignment(**{**base, **changes})


def call(name: str, given: Assignment | None = None) -> Outcome:
    given = given or assignment()
    context = make_context(given, HeldArtifacts(), lambda text, fraction=None: None, 0.0, logging.getLogger("agent"))
    return invoke(load(f"sample_agents:{name}"), given, context)


def failure(outcome: Outcome) -> Failure:
    assert isinstance(outcome, Failed)
    return outcome.failure


@pytest.mark.usefixtures("agents")
class TestReturns:
    def test_model_in_model_out_with_dates_as_text(self) -> None:
        given = assignment(input={"url": "u", "seen_at": "2026-01-02"})
        assert call("summarise", given) == Done(output={"title": "u", "at": "2026-01-02"})

    def test_function_of_the_context_alone(self) -> None:
        assert call("nothing") == Done(output="the goal")

    def test_any_annotation_pydantic_knows(self) -> None:
        assert call("numbers", assignment(input=[1, 2])) == Done(output=3)

    def test_input_without_annotation_is_passed_as_it_is(self) -> None:
        assert call("echo", assignment(input=[1, {"a": None}])) == Done(output=[1, {"a": None}])

    def test_done_keeps_what_is_missing(self) -> None:
        assert call("whole") == Done(output={"title": "x", "at": None}, degraded="half")

    def test_outcomes_pass_through(self) -> None:
        assert call("retry") == Retry(reason="later")
        assert call("ask") == Question(text="why?")
        assert call("unable") == Unable(reason="no")
        assert isinstance(call("plan", assignment(Role.PLANNER)), Planned)

    def test_a_plans_inputs_become_plain_json(self) -> None:
        outcome = call("dated", assignment(Role.PLANNER))
        assert isinstance(outcome, Planned)
        assert outcome.plan.steps[0].input == {"on": "2026-01-02"}

    def test_reviewer_gets_the_proposal_and_the_steps_own_input(self) -> None:
        given = assignment(Role.REVIEWER, proposal={"title": "t"}, input={"url": "u"})
        outcome = call("review", given)
        assert isinstance(outcome, Judged)
        assert outcome.judgement.accepted

    def test_an_agent_cannot_return_a_failure_of_the_runtime(self) -> None:
        assert failure(call("cheat")).code == "agent.protocol"


@pytest.mark.usefixtures("agents")
class TestFailures:
    def test_input_that_does_not_fit_names_the_path_and_not_the_value(self) -> None:
        refused = failure(call("summarise", assignment(input={"url": 123456})))
        assert refused.code == "agent.input"
        assert "input.url" in refused.text
        assert "123456" not in refused.text
        assert not refused.can_retry

    def test_the_message_of_a_strange_exception_is_for_operators_only(self) -> None:
        refused = failure(call("secret"))
        assert (refused.code, refused.text) == ("agent.error", "Secretive")
        assert "hunter2" in (refused.detail or "")

    def test_our_own_errors_are_shown_with_their_message(self) -> None:
        assert failure(call("ours")).text == "InvalidInput: the page is empty"

    def test_codes_of_agents_are_kept_and_codes_of_the_runtime_cannot_be_borrowed(self) -> None:
        coded = failure(call("coded"))
        assert (coded.code, coded.text, coded.can_retry) == ("agent.rate_limited", "Coded", False)
        assert failure(call("impostor")).code == "agent.error"
        own = failure(call("own"))
        assert (own.code, own.retryable) == ("agent.full", False)
        assert own.text == "AgentError: the disk is full"

    def test_exit_and_memory(self) -> None:
        assert failure(call("leave")).code == "agent.crashed"
        assert failure(call("starve")).code == "bound.memory"

    def test_endless_recursion_ends_in_a_capped_detail(self) -> None:
        refused = failure(call("deep"))
        assert refused.text == "RecursionError"
        assert len(refused.detail or "") <= 20_000

    @pytest.mark.parametrize(
        ("name", "where"),
        [
            ("nul", "output.a.0.b"),
            ("nul_key", "output.a"),
            ("nul_reason", "reason"),
            ("surrogate", "output.0"),
            ("infinite", "output.a"),
            ("endless", "plan.steps.0.input.n"),
            ("opaque", "object"),
            ("raw", "utf-8"),
            ("nested", "depth"),
        ],
    )
    def test_output_that_cannot_be_stored_is_refused_with_its_path(self, name: str, where: str) -> None:
        refused = failure(call(name))
        assert refused.code == "agent.output"
        assert where in refused.text
        assert "\0" not in refused.text

    def test_text_that_only_looks_like_what_cannot_be_stored_passes(self) -> None:
        assert call("escaped") == Done(output={"a": "\\u0000"})
        assert call("worded") == Done(output={"a": "NaN, -Infinity"})


@pytest.mark.usefixtures("agents")
class TestLoading:
    @pytest.mark.parametrize("name", ["later", "three", "none", "keyword", "forward", "value", "missing"])
    def test_what_is_no_agent_is_refused(self, name: str) -> None:
        with pytest.raises(NotImportable, match=name):
            load(f"sample_agents:{name}")

    @pytest.mark.parametrize("body", ["import nothing_like_it", "def f(:", "raise SystemExit(0)", "1/0"])
    def test_module_that_cannot_be_imported(self, agents: Path, body: str) -> None:
        (agents.parent / "broken_agents.py").write_text(body)
        with pytest.raises(NotImportable) as caught:
            load("broken_agents:f")
        assert "broken_agents" in caught.value.text
        assert caught.value.code == "agent.not_importable"

    def test_schemas_come_from_the_annotations_without_the_outcomes(self) -> None:
        loaded = load("sample_agents:summarise")
        assert loaded.input is not None
        assert loaded.output is not None
        assert set(loaded.output.json_schema()["properties"]) == {"title", "at"}
        assert load("sample_agents:plan").output is None
        assert load("sample_agents:whole").output is None
        assert load("sample_agents:echo").input is None

    def test_code_hash_follows_the_source(self, agents: Path) -> None:
        before = load("sample_agents:echo").code_hash
        assert before == hash_files([agents])
        agents.write_text(AGENTS + "\n# edited\n")
        assert hash_files([agents]) != before

    def test_source_is_found_without_importing_it(self, agents: Path) -> None:
        package = agents.parent / "sample_package"
        package.mkdir()
        for name in ("__init__", "one", "two"):
            (package / f"{name}.py").write_text("raise RuntimeError('imported')")
        files = find_source("sample_package.one")
        assert [file.name for file in files] == ["__init__.py", "one.py", "two.py"]
        assert "sample_package" not in sys.modules
        before = take_fingerprint(files)
        (package / "two.py").write_text("changed = True")
        assert take_fingerprint(files) != before
        assert find_source("no_such_module.at_all") == ()


def test_an_agents_word_on_retrying_overrides_its_codes() -> None:
    team = Team(name="t", agents={"sample": Agent(call="m:f")})
    given = assignment()
    assert isinstance(decide_failure(given, Failure(code="agent.full", text=""), team, 0.5), Return)
    assert isinstance(decide_failure(given, Failure(code="agent.full", text="", retryable=False), team, 0.5), Bury)
    assert isinstance(decide_failure(given, Failure(code="agent.unable", text="", retryable=True), team, 0.5), Return)
