"""The journal as people read it: every call of a step to a model, and exactly what was said at each."""

from uuid import UUID

from contracts.errors import NotFound
from shared_state.artifacts import ArtifactStore
from shared_state.connection import Connection
from shared_state.model_calls import unpack
from shared_state.shapes import ModelCall, ModelCallBodies
from shared_state.statements import query
from shared_state.views import fields
from shared_state.views.fields import Row

_LIST = "select * from model_calls where step_id = %(step_id)s and tenant_id = %(tenant)s order by epoch, ordinal"


def of_step(connection: Connection, tenant: str, step_id: UUID) -> list[ModelCall]:
    """All of them, in order."""
    return [_call(row) for row in query(connection, _LIST, step_id=step_id, tenant=tenant)]


def find(calls: list[ModelCall], epoch: int, ordinal: int) -> ModelCall:
    """Raises `NotFound`."""
    for each in calls:
        if (each["epoch"], each["ordinal"]) == (epoch, ordinal):
            return each
    raise NotFound(f"the step has no model call {epoch}.{ordinal}; `orchestrator step ID --calls` shows all")


def with_bodies(call: ModelCall, artifacts: ArtifactStore) -> ModelCallBodies:
    answer = call["response_sha256"]
    return {
        **call,
        "request": unpack(artifacts.get(call["request_sha256"])),
        "response": None if answer is None else unpack(artifacts.get(answer)),
    }


def _call(row: Row) -> ModelCall:
    return {
        "epoch": row["epoch"],
        "ordinal": row["ordinal"],
        "agent": row["agent"],
        "model": row["model"],
        "settings": row["settings"],
        "ending": row["ending"],
        "kept": row["kept"],
        "tool_calls": row["tool_calls"],
        "input_tokens": row["input_tokens"],
        "output_tokens": row["output_tokens"],
        "cost_usd": None,
        "seconds": row["seconds"],
        "ended_at": fields.time(row["ended_at"]),
        "request_sha256": row["request_sha256"],
        "response_sha256": row["response_sha256"],
    }
