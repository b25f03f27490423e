"""What one run of an agent's body came to."""

from dataclasses import dataclass

from contracts.outcomes import Outcome

LOG_TAIL_BYTES = 4096


@dataclass(frozen=True)
class Ran:
    """`log_tail` is the last 4 KB of what was printed; `code_hash` is null where the code was never reached;
    `peak_memory_bytes` is the largest resident size of the agent's process, null in a thread."""

    outcome: Outcome
    log_tail: str
    code_hash: str | None
    seconds: float
    peak_memory_bytes: int | None
