"""Try an agent without any server: `summarise(contracts.testing.context(), Page(url="..."))`."""

import hashlib
from collections.abc import Mapping
from typing import Any

from contracts.assignments import Answer
from contracts.context import ArtifactRef, Context, StepView
from contracts.errors import NotFound
from contracts.verdicts import Reason


class HeldArtifacts:
    """Artifacts of one test, kept in memory."""

    def __init__(self) -> None:
        self._bodies: dict[str, bytes] = {}

    def put(self, data: bytes, media_type: str = "application/octet-stream") -> ArtifactRef:
        digest = hashlib.sha256(data).hexdigest()
        self._bodies[digest] = data
        return ArtifactRef(sha256=digest, size_bytes=len(data), media_type=media_type)

    def get(self, ref: ArtifactRef | str) -> bytes:
        digest = ref if isinstance(ref, str) else ref.sha256
        if digest not in self._bodies:
            raise NotFound(f"there is no artifact {digest}")
        return self._bodies[digest]


def ignore_progress(text: str, fraction: float | None = None) -> None:
    """Progress of a test goes nowhere."""
    del text, fraction


def context(
    *,
    goal: str = "",
    input: Any = None,
    inputs: Mapping[str, Any] | None = None,
    feedback: tuple[Reason, ...] = (),
    answers: tuple[Answer, ...] = (),
    key: str = "step",
    agent: str = "agent",
    attempt: int = 1,
    deadline: float = float("inf"),
) -> Context:
    return Context(
        step=StepView(key=key, id="0" * 8, task_id="0" * 8, agent=agent, attempt=attempt),
        goal=goal,
        input=input,
        inputs=inputs or {},
        feedback=feedback,
        answers=answers,
        artifacts=HeldArtifacts(),
        progress=ignore_progress,
        deadline=deadline,
    )
