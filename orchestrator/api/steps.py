"""Steps and artifacts over HTTP."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Path
from fastapi.responses import Response

from contracts.errors import NotFound
from orchestrator.api.services import Ours, Reader, parse_id
from orchestrator.auth import Permission, allows
from shared_state import views
from shared_state.engine import transaction
from shared_state.shapes import ModelCallBodies, StepDetail

router = APIRouter(tags=["steps"])

Number = Annotated[int, Path(ge=1, le=2**31 - 1)]
_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_SAFE_MEDIA_TYPES = frozenset(
    {"application/json", "text/plain", "text/csv", "text/markdown", "application/pdf", "image/png", "image/jpeg"}
)
"""What no browser executes; everything else is sent as bytes. All of it is sent as a download."""


@router.get("/steps/{step_id}", response_model=StepDetail)
def read_step(step_id: str, caller: Reader, services: Ours) -> Any:
    """Attempts, verdicts, proposals, message and events; error details and logs for those who may operate."""
    detailed = allows(caller, Permission.OPERATE)
    with transaction(services.engine) as connection:
        return views.steps.read(connection, caller.tenant, parse_id(step_id, "step"), detailed=detailed)


@router.get("/steps/{step_id}/model-calls/{epoch}/{ordinal}", response_model=ModelCallBodies)
def read_model_call(step_id: str, epoch: Number, ordinal: Number, caller: Reader, services: Ours) -> Any:
    """What an agent said to its model at one turn, whole, and what it heard."""
    with transaction(services.engine) as connection:
        step = views.steps.read(connection, caller.tenant, parse_id(step_id, "step"), detailed=False)
    call = views.model_calls.find(step["model_calls"], epoch, ordinal)
    return views.model_calls.with_bodies(call, services.open_store(caller.tenant))


@router.get(
    "/artifacts/{sha256}", response_class=Response, responses={200: {"content": {"application/octet-stream": {}}}}
)
def read_artifact(sha256: str, caller: Reader, services: Ours) -> Response:
    """The bytes, as a download."""
    if not _SHA256.match(sha256):
        raise NotFound("there is no such artifact: it is named by its sha256, 64 hexadecimal digits in lower case")
    data, media_type = services.open_store(caller.tenant).fetch(sha256)
    safe = media_type.partition(";")[0].strip().lower()
    return Response(
        data,
        media_type=safe if safe in _SAFE_MEDIA_TYPES else "application/octet-stream",
        headers={
            "Content-Disposition": f'attachment; filename="{sha256}"',
            "Cache-Control": "private, max-age=31536000, immutable",
            "ETag": f'"{sha256}"',
        },
    )
