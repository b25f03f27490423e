"""What was tried on a step, attempt by attempt, for a person."""

from collections.abc import Sequence

from orchestrator.cli import output
from shared_state.shapes import Attempt

_LOG_LINES = 10


def show_attempts(attempts: Sequence[Attempt]) -> None:
    """Oldest first: who, when, the error, what the gates said."""
    for attempt in attempts:
        head = f"attempt {attempt['attempt']} (epoch {attempt['epoch']}, {attempt['role']}) {attempt['state']}"
        output.line(f"{head} on {attempt['worker']}, started {output.moment(attempt['started_at'])}")
        error = attempt["error"]
        if error is not None:
            output.line(f"  {error['code']}: {error['text']}")
            for text in error.get("detail", "").splitlines():
                output.line(f"    {text}")
        for text in (attempt["log_tail"] or "").splitlines()[-_LOG_LINES:]:
            output.line(f"  | {text}")
        for verdict in attempt["verdicts"] or []:
            output.line(f"  gate {verdict['gate']}: {verdict['result']}")
            for reason in verdict.get("reasons", []):
                output.line(f"    {reason['code']} {reason.get('where', '')}: {reason['text']}")
