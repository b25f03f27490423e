"""What a step may read: its and its task's input, the outputs it stands on, and artifacts that these refer to.

Nothing else of the task or the tenant can be named. What a source says is the same at every attempt.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from pydantic import ValidationError

from contracts.assignments import Assignment
from contracts.context import ArtifactRef, Artifacts
from contracts.errors import NotFound
from contracts.teams import Role
from shared_state.lineage import Accepted

TEXT_LIMIT_BYTES = 64_000_000
"""Of one artifact that is read as text."""
_SHOWN_DIGEST = 16
_FEWEST_DIGITS = 8


class Lineage(Protocol):
    """What a step stands on: `shared_state.lineage.Lineage`."""

    def task_input(self) -> Any: ...

    def outputs(self) -> list[Accepted]: ...

    def body(self, key: str) -> Any: ...


class NotText(Exception):
    """The message says why the source cannot be read as text."""


@dataclass(frozen=True)
class Source:
    """Something to read. `size_bytes` and `media_type` of an artifact are what its author says."""

    name: str
    origin: str
    size_bytes: int
    media_type: str = "application/json"
    artifact: ArtifactRef | None = None


class Sources:
    """All sources of one step; found when first asked for."""

    def __init__(self, assignment: Assignment, artifacts: Artifacts, lineage: Lineage) -> None:
        self._assignment = assignment
        self._artifacts = artifacts
        self._lineage = lineage

    @cached_property
    def all(self) -> Sequence[Source]:
        """The inputs, then outputs, parents before children, then artifacts."""
        given = [("input", "given to this step", self._assignment.input)]
        if self._task_input != self._assignment.input:
            given.append(("task", "given to the whole task", self._task_input))
        if self._assignment.role is Role.REVIEWER:
            given.append(("proposal", "under review", self._assignment.proposal))
        accepted = self._lineage.outputs()
        found = [Source(name, origin, len(_as_text(body).encode())) for name, origin, body in given]
        found += [Source(f"step:{each.key}", f"made by {each.agent}", each.size_bytes) for each in accepted]
        references = [(name, reference) for name, _, body in given for reference in _references(body)]
        references += [(f"step:{each.key}", reference) for each in accepted for reference in each.artifacts]
        return (*found, *_artifact_sources(references))

    @cached_property
    def _task_input(self) -> Any:
        return self._lineage.task_input()

    def find(self, name: str) -> Source:
        """By name; of an artifact's digest its beginning will do. Raises `NotFound`."""
        kind, _, digest = name.partition(":")
        by_digest = kind == "artifact" and len(digest) >= _FEWEST_DIGITS
        found = [
            source
            for source in self.all
            if source.name == name
            or (by_digest and source.artifact is not None and source.artifact.sha256.startswith(digest))
        ]
        if len(found) != 1:
            raise NotFound(f"there is no source {name[:200]!r} for this step; list_sources lists those there are")
        return found[0]

    def text(self, source: Source) -> str:
        """Outputs as indented JSON. Raises `NotText`, `NotFound` and what the artifact store raises."""
        if source.artifact is not None:
            return self._artifact_text(source.artifact)
        match source.name:
            case "input":
                return _as_text(self._assignment.input)
            case "task":
                return _as_text(self._task_input)
            case "proposal":
                return _as_text(self._assignment.proposal)
            case name:
                key = name.removeprefix("step:")
                inputs = self._assignment.inputs
                return _as_text(inputs[key] if key in inputs else self._lineage.body(key))

    def _artifact_text(self, reference: ArtifactRef) -> str:
        if reference.size_bytes > TEXT_LIMIT_BYTES:
            raise NotText(f"it has {reference.size_bytes} bytes; at most {TEXT_LIMIT_BYTES} are read as text")
        body = self._artifacts.get(reference)
        try:
            return body.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise NotText(f"its {len(body)} bytes ({reference.media_type}) are not UTF-8 text") from None


def _artifact_sources(references: Sequence[tuple[str, Any]]) -> Iterator[Source]:
    seen = set()
    for found_in, reference in references:
        try:
            artifact = ArtifactRef.model_validate(reference)
        except ValidationError:
            continue
        if artifact.sha256 not in seen:
            seen.add(artifact.sha256)
            yield Source(
                name=f"artifact:{artifact.sha256[:_SHOWN_DIGEST]}",
                origin=f"referred to in {found_in}",
                size_bytes=artifact.size_bytes,
                media_type=artifact.media_type,
                artifact=artifact,
            )


def _references(body: Any) -> Iterator[Any]:
    """The objects in a value that look like artifact references; a loop, since depth is the author's."""
    waiting = [body]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(value.get("sha256"), str):
                yield value
            waiting.extend(reversed(value.values()))
        elif isinstance(value, list):
            waiting.extend(reversed(value))


def _as_text(body: Any) -> str:
    return json.dumps(body, ensure_ascii=False, indent=1)


@dataclass(frozen=True)
class Match:
    source: str
    offset: int
    line: int
    excerpt: str


EXCERPT_BEFORE = 80
EXCERPT_AFTER = 160


def find_text(source: str, text: str, wanted: str) -> Iterator[Match]:
    """Where a text holds another, in any case; offsets are in characters. Linear in the text."""
    line, counted = 1, 0
    for hit in re.finditer(re.escape(wanted), text, re.IGNORECASE):
        line += text.count("\n", counted, hit.start())
        counted = hit.start()
        excerpt = text[max(0, hit.start() - EXCERPT_BEFORE) : hit.end() + EXCERPT_AFTER]
        yield Match(source, hit.start(), line, excerpt)
