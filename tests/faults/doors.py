"""Ways in: straight into the database as the API does it, or over HTTP."""

from uuid import UUID

import httpx
from sqlalchemy import Engine

from contracts.errors import OrchestratorError, Unavailable
from shared_state import outbox
from shared_state.outbox import MessagePublisher
from shared_state.tasks import Submission, submit
from shared_state.teams_cache import TeamsCache


class DatabaseDoor:
    """What the API does with a submission, without HTTP; it never waits for the broker longer than the API would."""

    def __init__(self, engine: Engine, publisher: MessagePublisher) -> None:
        self._engine = engine
        self._publisher = publisher
        self._teams = TeamsCache()

    def submit(self, submission: Submission) -> UUID:
        submitted = submit(self._engine, "default", [submission], teams=self._teams)
        result = submitted.results[0]
        if isinstance(result, OrchestratorError):
            raise result
        outbox.publish(self._publisher, submitted.wakeups)
        return result.task_id


class HttpDoor:
    """`POST /v1/tasks`. Anything but 2xx or a refusal of the body is an ambiguous answer."""

    def __init__(self, url: str, key: str, *, timeout_seconds: float = 10.0) -> None:
        self._client = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=timeout_seconds, trust_env=False
        )

    def submit(self, submission: Submission) -> UUID:
        body = submission.model_dump(mode="json", exclude={"idempotency_key"}, exclude_none=True)
        headers = {"Idempotency-Key": submission.idempotency_key or ""}
        try:
            answer = self._client.post("/v1/tasks", json=body, headers=headers)
        except httpx.HTTPError as error:
            raise Unavailable(f"the API does not answer ({type(error).__name__})") from error
        if answer.status_code in (201, 200, 202):
            return UUID(answer.json()["id"])
        if answer.status_code >= 500 or answer.status_code in (409, 429):
            raise Unavailable(f"the API answers {answer.status_code}")
        raise OrchestratorError(f"the API answers {answer.status_code}: {answer.text[:300]}")

    def ready(self) -> int:
        """The status code of `/ready`; 0 where nothing answers."""
        try:
            return self._client.get("/ready").status_code
        except httpx.HTTPError:
            return 0

    def readiness(self) -> str:
        """The status that `/ready` names; empty where it names none."""
        try:
            return str(self._client.get("/ready").json().get("status", ""))
        except (httpx.HTTPError, ValueError):
            return ""

    def close(self) -> None:
        self._client.close()
