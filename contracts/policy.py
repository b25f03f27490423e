"""The pure decisions: from what an attempt came to, to how it is settled. No I/O, no clock, no randomness."""

from typing import Any, Literal, assert_never

from contracts.assignments import Assignment
from contracts.errors import Failure
from contracts.outcomes import Done, Failed, Judged, Outcome, Planned, Question, Retry, Unable
from contracts.plans import check_plan
from contracts.settlements import Accept, AcceptPlan, Approve, Ask, Bury, Propose, Return, Settlement
from contracts.teams import Role, Team
from contracts.verdicts import Reason, Result, Verdict


def decide(
    assignment: Assignment, outcome: Outcome, verdicts: tuple[Verdict, ...], team: Team, chance: float
) -> Settlement:
    """Settle one attempt. `verdicts` are those of the gates run on its output; `chance` in [0, 1) draws the jitter."""
    match outcome:
        case Failed(failure=failure, after_seconds=after):
            return decide_failure(assignment, failure, team, chance, after_seconds=after or 0.0)
        case Unable(reason=reason):
            return Bury(failure=Failure(code="agent.unable", text=reason))
        case Retry(reason=reason, after_seconds=after):
            settled = decide_failure(assignment, Failure(code="agent.retry", text=reason), team, chance)
            if isinstance(settled, Return) and after is not None:
                return settled.model_copy(update={"after_seconds": after})
            return settled
        case Question(text=text):
            if assignment.role is Role.REVIEWER:
                failure = Failure(code="agent.protocol", text="a reviewer accepts or rejects; it cannot ask")
                return decide_failure(assignment, failure, team, chance)
            if assignment.questions >= team.bounds.questions:
                return Bury(failure=Failure(code="bound.questions", text=f"asked {assignment.questions} times already"))
            return Ask(text=text)
        case Judged(judgement=judgement):
            if assignment.role is not Role.REVIEWER:
                return _wrong_type(assignment, "a judgement", team, chance)
            if judgement.accepted:
                return Approve()
            reasons = judgement.reasons or (Reason(code="review.rejected", text="the reviewer gave no reason"),)
            return _reject(assignment, "review.rejected", reasons, (), None, team)
        case Planned(plan=plan):
            if assignment.role is not Role.PLANNER:
                return _wrong_type(assignment, "a plan", team, chance)
            wrong = tuple(check_plan(plan, team))
            if wrong:
                return _reject(assignment, "plan.invalid", wrong, verdicts, plan.model_dump(mode="json"), team)
            settled_gates = _decide_gates(assignment, verdicts, plan.model_dump(mode="json"), team, chance)
            return settled_gates or AcceptPlan(plan=plan, verdicts=verdicts)
        case Done(output=output, degraded=degraded):
            if assignment.role is not Role.EXECUTOR:
                return _wrong_type(assignment, "an output", team, chance)
            refused = _decide_gates(assignment, verdicts, output, team, chance)
            if refused is not None:
                return refused
            if assignment.reviewer is not None:
                return Propose(output=output, degraded=degraded, verdicts=verdicts)
            return Accept(output=output, degraded=degraded, verdicts=verdicts)
        case _:
            assert_never(outcome)


def decide_failure(
    assignment: Assignment,
    failure: Failure,
    team: Team,
    chance: float,
    *,
    expired: bool = False,
    after_seconds: float = 0.0,
) -> Return | Bury:
    """Retry with full jitter while the retry table allows, then bury. `after_seconds` is the least to wait: the jitter
    comes on top of it, so that those who were told the same time do not come back together.

    Full jitter (a uniform draw below the exponential bound) keeps a crowd that failed together from coming back
    together: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    to: Literal["ready", "reviewing"] = "reviewing" if assignment.role is Role.REVIEWER else "ready"
    if failure.code == "worker.stopped":
        # The worker was told to stop; the step did nothing wrong, and dies of something else if at all.
        return Return(to=to, failure=failure, counted=False)
    rule = team.retry_for(assignment.agent, failure.code)
    if not failure.can_retry or assignment.attempt >= rule.attempts:
        return Bury(failure=failure, expired=expired)
    bound = min(rule.backoff_limit_seconds, rule.backoff_seconds * 2.0 ** min(assignment.attempt - 1, 30))
    return Return(
        to=to,
        after_seconds=0.0 if expired else after_seconds + bound * chance,
        failure=failure,
        expired=expired,
    )


def _decide_gates(
    assignment: Assignment, verdicts: tuple[Verdict, ...], output: Any, team: Team, chance: float
) -> Settlement | None:
    """None when every gate passed. A refusal goes back with reasons; a gate that abstained is tried again."""
    failed = [verdict for verdict in verdicts if verdict.result is Result.FAIL]
    if failed:
        reasons = tuple(reason for verdict in failed for reason in verdict.reasons)
        return _reject(assignment, "gate.rejected", reasons, verdicts, output, team)
    abstained = [verdict for verdict in verdicts if verdict.result is not Result.PASS]
    if abstained:
        names = ", ".join(verdict.gate for verdict in abstained)
        failure = Failure(code="gate.abstained", text=f"could not decide: {names}")
        settled = decide_failure(assignment, failure, team, chance)
        return settled.model_copy(update={"verdicts": verdicts, "output": output})
    return None


def _reject(
    assignment: Assignment,
    code: str,
    reasons: tuple[Reason, ...],
    verdicts: tuple[Verdict, ...],
    output: Any,
    team: Team,
) -> Settlement:
    summary = "; ".join(f"{reason.where}: {reason.text}" if reason.where else reason.text for reason in reasons[:3])
    failure = Failure(code=code, text=summary[:4000] or code)
    reasons = reasons[:50]
    if assignment.rejections >= team.bounds.rejections:
        return Bury(failure=failure, output=output, feedback=reasons, verdicts=verdicts)
    return Return(failure=failure, rejected=True, output=output, feedback=reasons, verdicts=verdicts)


def _wrong_type(assignment: Assignment, what: str, team: Team, chance: float) -> Settlement:
    failure = Failure(
        code="agent.protocol", text=f"agent {assignment.agent!r} is a {assignment.role}; it returned {what}"
    )
    return decide_failure(assignment, failure, team, chance)
