"""The journal of calls to models: written before anything follows from an answer, read when a step begins again.

Requests and answers are artifacts: JSON, compressed, whole. A step goes on from its conversation's last answer, so what
was answered once is never asked again, whichever worker asked.
"""

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from contracts.assignments import Assignment
from shared_state.artifacts import ArtifactStore
from shared_state.connection import Connection
from shared_state.engine import retrying, transaction
from shared_state.statements import run

MEDIA_TYPE = "application/json+gzip"


@dataclass(frozen=True)
class Past:
    """A call of the step, as far as limits count it. `answered`: whether an answer came; `told`: whether the model had
    to be told what was wrong with it."""

    ending: str
    answered: bool
    told: bool
    tool_calls: int
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Recorded:
    """Where a conversation stands: its last request and answer (JSON, null at its beginning), whether the output in it
    was refused, what a person answered to the question in it, and the calls that limits count."""

    request: Any
    response: Any
    refused: bool
    answer: str | None
    counted: Sequence[Past]


@dataclass(frozen=True)
class Call:
    """One call that has ended, request and answer as JSON. `kept`: the answer is now part of the conversation."""

    ordinal: int
    conversation: str
    model: str
    settings: Any
    past: Past
    kept: bool
    seconds: float
    request: bytes
    response: bytes | None


class Journal:
    """Of one attempt. Blocks while it waits for Postgres."""

    def __init__(self, engine: Engine, artifacts: ArtifactStore, assignment: Assignment) -> None:
        self._engine = engine
        self._artifacts = artifacts
        self._assignment = assignment

    def read(self, conversation: str) -> Recorded:
        with transaction(self._engine) as connection:
            rows = run(
                connection,
                "view_conversation",
                step_id=self._assignment.step_id,
                agent=self._assignment.agent,
                conversation=conversation,
            )
        counted = [
            Past(
                ending=row["ending"],
                answered=row["response_sha256"] is not None,
                told=row["told"],
                tool_calls=row["tool_calls"],
                input_tokens=row["input_tokens"],
                output_tokens=row["output_tokens"],
            )
            for row in rows
            if row["counted"]
        ]
        last = next((row for row in rows if row["is_last"]), None)
        if last is None:
            return Recorded(None, None, refused=False, answer=None, counted=counted)
        return Recorded(
            self._unpack(last["request_sha256"]),
            self._unpack(last["response_sha256"]),
            last["refused"],
            last["answer"],
            counted,
        )

    def write(self, call: Call) -> None:
        """In one transaction. Raises `Unavailable`: then nothing may follow from the answer."""
        request = self._artifacts.prepare(_pack(call.request), MEDIA_TYPE)
        response = None if call.response is None else self._artifacts.prepare(_pack(call.response), MEDIA_TYPE)

        def work(connection: Connection) -> None:
            request.insert(connection)
            if response is not None:
                response.insert(connection)
            run(
                connection,
                "record_call",
                step_id=self._assignment.step_id,
                epoch=self._assignment.epoch,
                ordinal=call.ordinal,
                conversation=call.conversation,
                model=call.model,
                settings=json.dumps(call.settings),
                ending=call.past.ending,
                kept=call.kept,
                told=call.past.told,
                tool_calls=call.past.tool_calls,
                request=request.ref.sha256,
                response=response.ref.sha256 if response is not None else None,
                input_tokens=call.past.input_tokens,
                output_tokens=call.past.output_tokens,
                seconds=call.seconds,
            )

        retrying(self._engine, work)

    def _unpack(self, sha256: str) -> Any:
        return unpack(self._artifacts.get(sha256))


def unpack(data: bytes) -> Any:
    """The JSON in an artifact of the journal."""
    return json.loads(gzip.decompress(data))


def _pack(data: bytes) -> bytes:
    # Without the time, so that the same bytes are the same artifact.
    return gzip.compress(data, compresslevel=6, mtime=0)
