"""The pure decisions: every outcome, for every role, settles in exactly one way."""

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.assignments import Assignment
from contracts.errors import CODES, Failure
from contracts.outcomes import Done, Failed, Judged, Outcome, Planned, Question, Retry, Unable
from contracts.plans import Plan, Step
from contracts.policy import decide, decide_failure
from contracts.settlements import Accept, AcceptPlan, Approve, Ask, Bury, Propose, Return
from contracts.teams import Role, Team
from contracts.verdicts import Judgement, Reason, Result, Verdict

TEAM = Team.model_validate(
    {
        "name": "t",
        "agents": {
            "lead": {"call": "m:f", "role": "planner"},
            "work": {"call": "m:f", "retry": {"bound.time": {"attempts": 1}}},
            "judge": {"call": "m:f", "role": "reviewer"},
        },
        "bounds": {"rejections": 2, "questions": 1, "steps": 3, "depth": 2},
        "retry": {"agent": {"attempts": 2, "backoff_seconds": 4, "backoff_limit_seconds": 10}},
    }
)
PASS = (Verdict(gate="schema", result=Result.PASS),)
FAIL = (Verdict(gate="files", result=Result.FAIL, reasons=(Reason(code="x", where="/a", text="wrong"),)),)
UNSURE = (Verdict(gate="files", result=Result.ABSTAIN),)


def assignment(role: Role = Role.EXECUTOR, **fields: Any) -> Assignment:
    agent = {Role.PLANNER: "lead", Role.EXECUTOR: "work", Role.REVIEWER: "judge"}[role]
    facts = {"attempt": 1, "rejections": 0, "questions": 0, **fields}
    return Assignment(
        tenant="t", task_id=UUID(int=1), step_id=UUID(int=2), epoch=1, key="s", role=role, agent=agent,
        team_digest="d", **facts,
    )  # fmt: skip


def settle(outcome: Outcome, verdicts: tuple[Verdict, ...] = PASS, role: Role = Role.EXECUTOR, **fields: Any) -> Any:
    return decide(assignment(role, **fields), outcome, verdicts, TEAM, 0.5)


def test_done_is_accepted_or_proposed() -> None:
    assert isinstance(settle(Done(output=1)), Accept)
    assert isinstance(settle(Done(output=1), reviewer="judge"), Propose)


def test_a_failed_gate_sends_back_until_the_bound() -> None:
    settled = settle(Done(output={"a": 1}), FAIL)
    assert isinstance(settled, Return)
    assert (settled.rejected, settled.failure.code, settled.feedback) == (True, "gate.rejected", FAIL[0].reasons)
    assert settled.output == {"a": 1}
    assert isinstance(settle(Done(output=1), FAIL, rejections=1), Return)
    assert isinstance(settle(Done(output=1), FAIL, rejections=2), Bury)


def test_a_failed_gate_cannot_be_reviewed_away() -> None:
    assert isinstance(settle(Done(output=1), FAIL, reviewer="judge"), Return)


def test_an_abstaining_gate_never_lets_anything_through() -> None:
    settled = settle(Done(output=1), UNSURE)
    assert isinstance(settled, Return)
    assert (settled.rejected, settled.failure.code) == (False, "gate.abstained")
    assert isinstance(settle(Done(output=1), UNSURE, attempt=3), Bury)


def test_a_judgement_approves_or_sends_back() -> None:
    assert isinstance(settle(Judged(judgement=Judgement.accept()), role=Role.REVIEWER), Approve)
    refused = settle(Judged(judgement=Judgement.reject("too long")), role=Role.REVIEWER)
    assert isinstance(refused, Return)
    assert (refused.to, refused.rejected, refused.feedback[0].text) == ("ready", True, "too long")
    silent = settle(Judged(judgement=Judgement(accepted=False)), role=Role.REVIEWER)
    assert silent.feedback
    assert isinstance(settle(Judged(judgement=Judgement.reject("no")), role=Role.REVIEWER, rejections=2), Bury)


def test_a_reviewers_own_failure_keeps_the_proposal() -> None:
    failed = settle(Failed(failure=Failure(code="agent.error", text="x")), role=Role.REVIEWER)
    assert isinstance(failed, Return)
    assert failed.to == "reviewing"


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        ([], "plan.empty"),
        ([{"id": str(n), "agent": "work"} for n in range(4)], "plan.too_many_steps"),
        ([{"id": "a", "agent": "work"}, {"id": "a", "agent": "work"}], "plan.duplicate_id"),
        ([{"id": "a", "agent": "nobody"}], "plan.unknown_agent"),
        ([{"id": "a", "agent": "judge"}], "plan.wrong_role"),
        ([{"id": "a", "agent": "work", "review": "work"}], "plan.unknown_reviewer"),
        ([{"id": "a", "agent": "work", "needs": ["b"]}], "plan.unknown_need"),
        ([{"id": "a", "agent": "work", "needs": ["a"]}], "plan.cycle"),
        ([{"id": "a", "agent": "work", "needs": ["b"]}, {"id": "b", "agent": "work", "needs": ["a"]}], "plan.cycle"),
        (
            [
                {"id": "a", "agent": "work"},
                {"id": "b", "agent": "work", "needs": ["a"]},
                {"id": "c", "agent": "work", "needs": ["b"]},
            ],
            "plan.too_deep",
        ),
    ],
)
def test_a_bad_plan_goes_back_with_reasons(steps: list[dict[str, Any]], code: str) -> None:
    settled = settle(Planned(plan=Plan.model_validate({"steps": steps})), role=Role.PLANNER)
    assert isinstance(settled, Return)
    assert (settled.failure.code, settled.feedback[0].code) == ("plan.invalid", code)
    assert isinstance(settle(Planned(plan=Plan(steps=())), role=Role.PLANNER, rejections=2), Bury)


def test_a_good_plan_is_accepted_unless_a_gate_refuses() -> None:
    plan = Planned(plan=Plan(steps=(Step(id="a", agent="work"),)))
    assert isinstance(settle(plan, role=Role.PLANNER), AcceptPlan)
    assert isinstance(settle(plan, FAIL, role=Role.PLANNER), Return)


@pytest.mark.parametrize(
    ("outcome", "role"),
    [
        (Done(output=1), Role.PLANNER),
        (Done(output=1), Role.REVIEWER),
        (Planned(plan=Plan(steps=())), Role.EXECUTOR),
        (Planned(plan=Plan(steps=())), Role.REVIEWER),
        (Judged(judgement=Judgement.accept()), Role.EXECUTOR),
        (Judged(judgement=Judgement.accept()), Role.PLANNER),
        (Question(text="?"), Role.REVIEWER),
    ],
)
def test_a_role_may_not_return_anothers_outcome(outcome: Outcome, role: Role) -> None:
    settled = settle(outcome, role=role)
    assert isinstance(settled, Return)
    assert settled.failure.code == "agent.protocol"


def test_questions_are_bounded() -> None:
    assert isinstance(settle(Question(text="?")), Ask)
    assert isinstance(settle(Question(text="?"), questions=1), Bury)


def test_unable_is_final() -> None:
    settled = settle(Unable(reason="not safely"))
    assert isinstance(settled, Bury)
    assert settled.failure == Failure(code="agent.unable", text="not safely")


def test_a_retry_may_name_its_time_but_not_escape_the_bound() -> None:
    settled = settle(Retry(reason="busy", after_seconds=77))
    assert isinstance(settled, Return)
    assert settled.after_seconds == 77
    assert isinstance(settle(Retry(reason="busy", after_seconds=77), attempt=2), Bury)


def test_whoever_asked_for_time_is_left_alone_and_the_jitter_comes_on_top() -> None:
    failure = Failure(code="model.rate_limited", text="x")
    plain, asked = settle(Failed(failure=failure)), settle(Failed(failure=failure, after_seconds=77))
    assert plain.after_seconds > 0
    assert asked.after_seconds == plain.after_seconds + 77
    assert isinstance(settle(Failed(failure=failure, after_seconds=77), attempt=8), Bury)


def test_the_exact_code_of_the_agent_comes_before_the_teams_family() -> None:
    assert isinstance(settle(Failed(failure=Failure(code="bound.time", text="x"))), Bury)
    assert isinstance(settle(Failed(failure=Failure(code="agent.error", text="x")), attempt=2), Bury)
    assert isinstance(settle(Failed(failure=Failure(code="lease.expired", text="x")), attempt=2), Return)


@pytest.mark.parametrize("code", sorted(code for code, each in CODES.items() if not each.retryable))
def test_what_cannot_get_better_is_not_retried(code: str) -> None:
    assert isinstance(decide_failure(assignment(), Failure(code=code, text="x"), TEAM, 0.5), Bury)


def test_a_worker_told_to_stop_costs_no_step_its_life() -> None:
    settled = decide_failure(assignment(attempt=99), Failure(code="worker.stopped", text="x"), TEAM, 0.5)
    assert isinstance(settled, Return)


@given(attempt=st.integers(1, 200), chance=st.floats(0, 1, exclude_max=True))
def test_backoff_stays_within_its_limits(attempt: int, chance: float) -> None:
    failure = Failure(code="agent.error", text="x")
    settled = decide_failure(assignment(attempt=attempt), failure, TEAM, chance)
    if isinstance(settled, Return):
        assert 0 <= settled.after_seconds <= min(10, 4 * 2 ** (attempt - 1))
    else:
        assert attempt >= 2


def test_a_lapsed_lease_is_retried_at_once() -> None:
    settled = decide_failure(assignment(), Failure(code="lease.expired", text="x"), TEAM, 0.9, expired=True)
    assert isinstance(settled, Return)
    assert (settled.after_seconds, settled.expired) == (0.0, True)
