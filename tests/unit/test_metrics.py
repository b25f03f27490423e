"""What a process tells of itself, and to whom."""

import socket
from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from pydantic import SecretStr

from contracts.assignments import Assignment
from contracts.errors import Failure, Misconfigured
from contracts.settlements import Accept, Approve, Bury, Return, Settlement
from contracts.teams import Role
from contracts.verdicts import Result, Verdict
from orchestrator.loops.metrics import LoopMetrics
from shared_state.attempts import Record, Settling
from shared_state.inspection import Inspection
from shared_state.metrics import OTHER, Endpoint, Names, code_label, make_registry, may_read, open_endpoint
from shared_state.settings import Listen, Settings
from shared_state.verify import Violation
from workers.durations import Durations
from workers.metrics import WorkerMetrics
from workers.slots import Slots

from ..scrape import Series, parse, scrape, value

TOKEN = SecretStr("a token of the tests")
LOOPBACK = Listen("127.0.0.1", 0)


@pytest.fixture
def registry() -> CollectorRegistry:
    return make_registry()


@pytest.fixture
def url(registry: CollectorRegistry) -> Iterator[str]:
    endpoint = Endpoint(LOOPBACK, TOKEN, registry)
    yield f"http://127.0.0.1:{endpoint.port}"
    endpoint.close()


def test_a_process_shows_its_own_figures_to_who_has_the_token(url: str, registry: CollectorRegistry) -> None:
    Gauge("own", "Mine.", registry=registry).set(7)
    seen = scrape(f"{url}/metrics", TOKEN.get_secret_value())
    assert value(seen, "own") == 7
    assert value(seen, "process_cpu_seconds_total") is not None


@pytest.mark.parametrize("shown", [None, "Bearer", "Bearer wrong", "Basic a token of the tests", "Bearer \xff"])
@pytest.mark.parametrize("path", ["/metrics", "/", "/elsewhere"])
def test_strangers_see_nothing_on_any_path(url: str, shown: str | None, path: str) -> None:
    headers = {} if shown is None else {"Authorization": shown.encode("latin-1")}
    answer = httpx.get(f"{url}{path}", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "process_" not in answer.text


def test_there_is_nothing_else(url: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN.get_secret_value()}"}
    assert httpx.get(f"{url}/", headers=headers).status_code == 404
    assert httpx.post(f"{url}/metrics", headers=headers).status_code == 501


def test_where_there_is_no_token_nobody_may_read_what_needs_one() -> None:
    assert not may_read(None, "Bearer ")
    assert may_read(TOKEN, "bearer a token of the tests")


def test_a_port_that_is_taken_is_said_with_the_setting(registry: CollectorRegistry) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Misconfigured, match=rf"metrics_listen: cannot listen on 127.0.0.1:{port}.*METRICS_LISTEN"):
            open_endpoint(Settings(metrics_listen=f"127.0.0.1:{port}"), registry)


def test_nothing_listens_unless_it_is_told_to(registry: CollectorRegistry) -> None:
    assert open_endpoint(Settings(), registry) is None


def test_names_that_people_choose_are_few() -> None:
    names = Names(limit=2)
    assert [names.label(name) for name in ("a", "b", "c", "a", "d")] == ["a", "b", OTHER, "a", OTHER]
    assert code_label("bound.time") == "bound.time"
    assert code_label("agent.made_up_by_an_agent") == "agent.other"


# --- workers


def settling(settlement: Settlement, agent: str = "write", role: Role = Role.EXECUTOR) -> Settling:
    assignment = Assignment(
        tenant="default", task_id=uuid4(), step_id=uuid4(), epoch=1, key="s", role=role, agent=agent, team_digest="d",
        attempt=1, rejections=0, questions=0, waited_seconds=4.0,
    )  # fmt: skip
    return Settling(assignment, settlement, Record(seconds=2.0))


def seen(registry: CollectorRegistry) -> Series:
    return parse(generate_latest(registry).decode())


def test_an_accepted_attempt_is_counted_once_and_its_time_by_phase(registry: CollectorRegistry) -> None:
    verdicts = (Verdict(gate="schema", result=Result.PASS, seconds=0.25), Verdict(gate="m:g", result=Result.PASS))
    WorkerMetrics(registry).settled(settling(Accept(output=1, verdicts=verdicts)), 0.125, done=True)
    series = seen(registry)
    for phase, seconds in {"queue": 4.0, "run": 2.0, "gate": 0.25, "commit": 0.125}.items():
        assert value(series, "orchestrator_step_seconds_sum", agent="write", phase=phase) == seconds
        assert value(series, "orchestrator_step_seconds_count", agent="write", phase=phase) == 1
    assert value(series, "orchestrator_attempts_total", agent="write", settlement="accept", code="") == 1
    assert value(series, "orchestrator_verdicts_total", gate="schema", result="pass") == 1
    assert value(series, "orchestrator_verdicts_total", gate="m:g", result="pass") == 1
    assert not [name for name in series if name.endswith("_created")]


def test_a_duration_counts_up_to_its_bound_and_beyond_the_last(registry: CollectorRegistry) -> None:
    durations = Durations("took_seconds", "How long.", ["phase"], (0.5, 2))
    registry.register(durations)
    for seconds in (0.0, 0.5, 0.51, 2.0, 700.0):
        durations.of("run").note(seconds)
    series = seen(registry)
    counts = {has["le"]: number for has, number in series["took_seconds_bucket"]}
    assert counts == {"0.5": 2, "2.0": 4, "+Inf": 5}
    assert value(series, "took_seconds_count", phase="run") == 5
    assert value(series, "took_seconds_sum", phase="run") == 703.01


def test_failures_count_by_code_and_a_gates_zero_is_shown(registry: CollectorRegistry) -> None:
    metrics = WorkerMetrics(registry)
    refused = (Verdict(gate="files", result=Result.FAIL),)
    rejected = Return(failure=Failure(code="gate.rejected", text="no"), rejected=True, verdicts=refused)
    for _ in range(2):
        metrics.settled(settling(rejected), 0.1, done=True)
    for made_up in ("agent.mine", "agent.yours"):
        metrics.settled(settling(Bury(failure=Failure(code=made_up, text="no"))), 0.1, done=True)
    series = seen(registry)
    assert value(series, "orchestrator_attempts_total", settlement="return", code="gate.rejected") == 2
    assert value(series, "orchestrator_attempts_total", settlement="bury", code="agent.other") == 2
    assert value(series, "orchestrator_verdicts_total", gate="files", result="fail") == 2
    assert value(series, "orchestrator_verdicts_total", gate="files", result="pass") == 0


def test_what_reviewers_say_counts_as_a_gate(registry: CollectorRegistry) -> None:
    metrics = WorkerMetrics(registry)
    metrics.settled(settling(Approve(), role=Role.REVIEWER), 0.1, done=True)
    refusal = Return(failure=Failure(code="review.rejected", text="no"), rejected=True)
    metrics.settled(settling(refusal, role=Role.REVIEWER), 0.1, done=True)
    series = seen(registry)
    assert value(series, "orchestrator_verdicts_total", gate="review", result="pass") == 1
    assert value(series, "orchestrator_verdicts_total", gate="review", result="fail") == 1


def test_an_attempt_that_was_overtaken_is_only_that(registry: CollectorRegistry) -> None:
    WorkerMetrics(registry).settled(settling(Accept(output=1)), 0.1, done=False)
    series = seen(registry)
    assert value(series, "orchestrator_attempts_stale_total") == 1
    assert "orchestrator_attempts_total" not in series


def test_agents_beyond_the_limit_share_one_series(registry: CollectorRegistry) -> None:
    metrics = WorkerMetrics(registry)
    for number in range(300):
        metrics.settled(settling(Accept(output=1), agent=f"agent{number}"), 0.1, done=True)
    counts = {has["agent"]: number for has, number in seen(registry)["orchestrator_attempts_total"]}
    assert len(counts) == 201
    assert counts[OTHER] == 100


def test_calls_to_models_count_by_agent_and_model_with_their_tokens(registry: CollectorRegistry) -> None:
    metrics = WorkerMetrics(registry)
    metrics.called("write", "small-1", "answered", seconds=1.5, input_tokens=100, output_tokens=20)
    metrics.called("write", "small-1", "timeout", seconds=3.0, input_tokens=0, output_tokens=0)
    series = seen(registry)
    assert value(series, "orchestrator_model_calls_total", agent="write", model="small-1", ending="answered") == 1
    assert value(series, "orchestrator_model_tokens_total", model="small-1", direction="input") == 100
    assert value(series, "orchestrator_model_tokens_total", model="small-1", direction="output") == 20
    assert value(series, "orchestrator_model_call_seconds_sum", model="small-1") == 4.5


def test_busy_slots_are_those_that_are_taken(registry: CollectorRegistry) -> None:
    slots = Slots(5)
    WorkerMetrics(registry).watch(slots, 5)
    slots.take(2)
    assert value(seen(registry), "orchestrator_worker_slots") == 5
    assert value(seen(registry), "orchestrator_worker_slots_busy") == 2


# --- loops


def test_a_pass_that_failed_is_no_last_pass(registry: CollectorRegistry) -> None:
    metrics = LoopMetrics(registry)
    metrics.passed("sweeper", 0.5, ended_well=False)
    assert value(seen(registry), "orchestrator_loop_last_pass_timestamp_seconds", loop="sweeper") is None
    assert value(seen(registry), "orchestrator_loop_failures_total", loop="sweeper") == 1
    metrics.passed("sweeper", 0.5, ended_well=True)
    assert value(seen(registry), "orchestrator_loop_last_pass_timestamp_seconds", loop="sweeper")


def test_violations_are_shown_by_invariant_and_forgotten_by_who_does_not_look(registry: CollectorRegistry) -> None:
    metrics = LoopMetrics(registry)
    found = [Violation("I01", "safety", "meaning", str(number), "text") for number in range(3)]
    metrics.inspected(Inspection(found, task_count=1, unchecked=["I02"], seconds=0.1))
    shown = seen(registry)
    assert value(shown, "orchestrator_invariant_violations", invariant="I01", kind="safety") == 3
    assert value(shown, "orchestrator_invariant_violations", invariant="I03") == 0
    assert value(shown, "orchestrator_invariant_violations", invariant="I02") is None
    assert value(shown, "orchestrator_invariants_unchecked") == 1
    metrics.inspected(Inspection([], task_count=1, unchecked=[], seconds=0.1))
    assert value(seen(registry), "orchestrator_invariant_violations", invariant="I01") == 0
    metrics.inspected(None)
    assert "orchestrator_invariant_violations" not in seen(registry)
