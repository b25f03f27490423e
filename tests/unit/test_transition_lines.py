"""What the logs say of attempts: the right level, the code, and the same names everywhere."""

from uuid import UUID

import pytest
from structlog.testing import capture_logs

from contracts.assignments import Assignment
from contracts.errors import Failure
from contracts.settlements import Abandon, Accept, Bury, Return, Settlement
from contracts.teams import Role
from shared_state import transitions
from shared_state.attempts import Settling

TRACE = "a" * 32
ASSIGNMENT = Assignment(
    tenant="default",
    task_id=UUID(int=1),
    step_id=UUID(int=2),
    epoch=3,
    key="s",
    role=Role.EXECUTOR,
    agent="write",
    team_digest="d",
    attempt=2,
    rejections=0,
    questions=0,
    traceparent=f"00-{TRACE}-{'b' * 16}-01",
)
NAMES = {
    "tenant": "default",
    "task_id": str(UUID(int=1)),
    "step_id": str(UUID(int=2)),
    "epoch": 3,
    "attempt": 2,
    "agent": "write",
    "trace_id": TRACE,
}
FAILURE = Failure(code="bound.time", text="it took a secret too long")


@pytest.mark.parametrize(
    ("settlement", "event", "level", "code"),
    [
        (Accept(output=1), "attempt.settled", "debug", None),
        (Abandon(), "attempt.settled", "debug", None),
        (Return(failure=FAILURE), "attempt.returned", "info", "bound.time"),
        (Return(failure=FAILURE, rejected=True), "attempt.refused", "info", "bound.time"),
        (Bury(failure=FAILURE), "attempt.buried", "warning", "bound.time"),
    ],
)
def test_a_settlement_is_one_line(settlement: Settlement, event: str, level: str, code: str | None) -> None:
    with capture_logs() as said:
        transitions.settled(Settling(ASSIGNMENT, settlement))
    (line,) = said
    assert (line["event"], line["log_level"], line.get("code")) == (event, level, code)
    assert line.items() >= NAMES.items()
    assert FAILURE.text not in str(line)


def test_what_else_happens_to_an_attempt_has_the_same_names() -> None:
    with capture_logs() as said:
        transitions.stale(Settling(ASSIGNMENT, Abandon()))
        transitions.lost(ASSIGNMENT)
        transitions.not_stored(ASSIGNMENT, ValueError("quotes the output"))
        try:
            raise ValueError
        except ValueError:
            transitions.broken(ASSIGNMENT)
    assert [line["event"] for line in said] == ["attempt.stale", "attempt.lost", "settle.refused", "attempt.broken"]
    assert all(line.items() >= NAMES.items() for line in said)
    assert "quotes" not in str(said)
