"""The Python client: the HTTP API as methods, its problems as our errors.

with Client() as client:
    task = client.submit("survey", input={"path": "."})
    print(client.wait(task["id"])["state"], client.result(task["id"])["outputs"])
"""

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import quote

import httpx

from contracts.errors import InvalidInput, OrchestratorError, Unavailable
from orchestrator.refusals import TooLarge, error_of
from shared_state import settings
from shared_state.shapes import (
    Created,
    DeadLetter,
    DeadLetterCount,
    DeadLetterDetail,
    Event,
    Limit,
    ModelCallBodies,
    Overview,
    Pause,
    Question,
    Queue,
    Readiness,
    ReasonCode,
    Redriven,
    Result,
    Step,
    StepDetail,
    Task,
    TaskDetail,
    Team,
    TeamDetail,
    Worker,
)

ENDED = frozenset({"succeeded", "failed", "cancelled"})
LIST_LIMIT = 1000
"""The tasks of one list."""
_PAGE = 200
_SILENCE_SECONDS = 45.0
"""A live stream that is silent for longer (three heartbeats) is dead."""
_RECONNECT_SECONDS = 60.0
_POLL_SECONDS = (0.05, 1.0)


class TimedOut(OrchestratorError):
    """`wait` waited as long as it was allowed to; the task goes on."""

    code = "timed_out"
    retryable = True


class Client:
    """Talks to one API with one key. Safe to use from several threads; close it, or use it in a `with`.

    Without `url` or `key` it uses ORCHESTRATOR_API_URL and ORCHESTRATOR_API_KEY, orchestrator.toml, or the `dev.json`
    of a dev server in ORCHESTRATOR_DATA_DIR (./.orchestrator). Every method raises `Unavailable` when the service does
    not answer, and otherwise the error that the service names (it waits, within `timeout_seconds`, where it is told to
    come back later): `InvalidInput` (with `field`), `NotFound`, `Conflict`,
    `Unauthenticated`, `Forbidden`, ...
    """

    def __init__(self, url: str | None = None, key: str | None = None, *, timeout_seconds: float = 30.0) -> None:
        if url is None or key is None:
            found = settings.from_environment()
            url = url or found.api_url
            key = key or (found.api_key.get_secret_value() if found.api_key else None)
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(timeout_seconds, connect=5.0)
        self._timeout_seconds = timeout_seconds
        self._http = httpx.Client(base_url=f"{self.url}/v1", headers=headers, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # --- tasks

    def submit(
        self,
        team: str,
        *,
        goal: str = "",
        input: Mapping[str, Any] | None = None,
        plan: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        deadline_seconds: float | None = None,
        idempotency_key: str | None = None,
    ) -> Task:
        """Submit one task. Without `idempotency_key` it gets a random one, so that a repetition of ours is harmless."""
        _check_key(idempotency_key)
        given = {"goal": goal, "input": input, "plan": plan, "labels": labels, "deadline_seconds": deadline_seconds}
        body = {"team": team, **{name: value for name, value in given.items() if value not in (None, "")}}
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return cast(Task, self._send_again("/tasks", body, headers))

    def submit_many(self, tasks: Sequence[Mapping[str, Any]]) -> list[Created | OrchestratorError]:
        """Any number of tasks, each an object with the fields of `submit`; for each its id or its error, in order.

        They are sent 1,000 at a time, and those of one sending are accepted together. An item without
        `idempotency_key` gets a random one, so that a repetition of ours is harmless.
        """
        keyed = [{"idempotency_key": str(uuid.uuid4()), **task} for task in tasks]
        made: list[Created | OrchestratorError] = []
        for start in range(0, len(keyed), LIST_LIMIT):
            made += self._submit_list(keyed[start : start + LIST_LIMIT], start)
        return made

    def task(self, task_id: str) -> TaskDetail:
        return cast(TaskDetail, self._get(f"/tasks/{_part(task_id)}"))

    def tasks(
        self,
        *,
        state: Sequence[str] = (),
        team: str | None = None,
        label: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Task]:
        """Newest first; `label` is `name=value`; all of them unless `limit` is given."""
        return cast(Iterator[Task], self._pages("/tasks", {"state": list(state), "team": team, "label": label}, limit))

    def steps(self, task_id: str, *, state: Sequence[str] = (), limit: int | None = None) -> Iterator[Step]:
        """Parents before children."""
        return cast(Iterator[Step], self._pages(f"/tasks/{_part(task_id)}/steps", {"state": list(state)}, limit))

    def step(self, step_id: str) -> StepDetail:
        return cast(StepDetail, self._get(f"/steps/{_part(step_id)}"))

    def model_call(self, step_id: str, epoch: int, ordinal: int) -> ModelCallBodies:
        """What was said to the model at one turn, and what it answered."""
        return cast(ModelCallBodies, self._get(f"/steps/{_part(step_id)}/model-calls/{epoch}/{ordinal}"))

    def events(self, task_id: str, *, after: str | None = None) -> Iterator[Event]:
        """Live until the task ends; a cut stream is resumed where it stopped. `Unavailable` after a minute of that."""
        self.task(task_id)  # what is wrong from the start is said at once
        patience = time.monotonic() + _RECONNECT_SECONDS
        while True:
            error: Exception | None = None
            try:
                for event in self._stream(task_id, after):
                    patience = time.monotonic() + _RECONNECT_SECONDS
                    after = event["cursor"]
                    yield event
                    if event["type"].removeprefix("task.") in ENDED:
                        return
                if self.task(task_id)["state"] in ENDED:
                    # Ended while we were cut off: hand out what is left.
                    yield from self.past_events(task_id, after=after)
                    return
            except (httpx.TransportError, Unavailable) as cut:
                error = cut
            if error is not None and time.monotonic() > patience:
                raise self._unavailable(error)
            time.sleep(_POLL_SECONDS[1])

    def past_events(self, task_id: str, *, after: str | None = None, limit: int | None = None) -> Iterator[Event]:
        """What has happened so far, oldest first."""
        return cast(Iterator[Event], self._pages(f"/tasks/{_part(task_id)}/events", {"cursor": after}, limit))

    def wait(self, task_id: str, timeout_seconds: float | None = None) -> TaskDetail:
        """The task once it has ended, however it did. Raises `TimedOut`; survives short outages of the service."""
        now = time.monotonic()
        until = None if timeout_seconds is None else now + timeout_seconds
        patience = now
        pause, longest = _POLL_SECONDS
        while True:
            try:
                task = self.task(task_id)
                patience = time.monotonic() + _RECONNECT_SECONDS
                if task["state"] in ENDED:
                    return task
            except Unavailable:
                if time.monotonic() > patience:
                    raise
            if until is not None and time.monotonic() + pause > until:
                raise TimedOut(f"task {task_id} has not ended within {timeout_seconds:g} seconds; it goes on")
            time.sleep(pause)
            pause = min(longest, pause * 1.5)

    def result(self, task_id: str) -> Result:
        """The accepted outputs of the steps nobody needs. Raises `Conflict` while the task goes on."""
        return cast(Result, self._get(f"/tasks/{_part(task_id)}/result"))

    def artifact(self, sha256: str) -> bytes:
        return self._answer("GET", f"/artifacts/{_part(sha256)}").content

    def cancel(self, task_id: str) -> TaskDetail:
        return cast(TaskDetail, self._send("POST", f"/tasks/{_part(task_id)}/cancel"))

    def fork(
        self,
        task_id: str,
        from_step: str,
        *,
        edit: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> TaskDetail:
        """A new task with the accepted outputs of this one, in which `from_step` (its id in the plan, or its UUID) and
        whatever follows from it is done again, with another input of that step if `edit` is given.

        Without `idempotency_key` it gets a random one, so that a repetition of ours is harmless.
        """
        _check_key(idempotency_key)
        body = {"from": from_step, **({} if edit is None else {"edit": dict(edit)})}
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return cast(TaskDetail, self._send_again(f"/tasks/{_part(task_id)}/fork", body, headers))

    # --- what waits for people

    def dead_letters(
        self, *, state: str | None = None, limit: int | None = None, **wanted: Any
    ) -> Iterator[DeadLetter]:
        """Newest first. `wanted` is any of reason (a code, or the part of codes before the dot), team, agent, queue,
        task, since, until (`datetime` or RFC 3339; since counts, until does not) and text (a part of it)."""
        return cast(Iterator[DeadLetter], self._pages("/dead-letters", {"state": state, **_plain(wanted)}, limit))

    def dead_letter_counts(self, *, state: str | None = None, **wanted: Any) -> list[DeadLetterCount]:
        """How many there are by reason; `wanted` as in `dead_letters`."""
        query = {"state": state, **_plain(wanted)}
        return cast(list[DeadLetterCount], self._get("/dead-letters/counts", query)["items"])

    def dead_letter_codes(self) -> list[ReasonCode]:
        """Every reason there is, with its meaning and what to do."""
        return cast(list[ReasonCode], self._get("/dead-letters/codes")["items"])

    def dead_letter(self, letter_id: str) -> DeadLetterDetail:
        """Everything about it, with the story of its step."""
        return cast(DeadLetterDetail, self._get(f"/dead-letters/{_part(letter_id)}"))

    def export_dead_letters(self, *, state: str | None = None, **wanted: Any) -> Iterator[DeadLetterDetail]:
        """All that fit with their whole stories, as they arrive; `wanted` as in `dead_letters`."""
        query = {name: value for name, value in {"state": state, **_plain(wanted)}.items() if value is not None}
        try:
            with self._http.stream("GET", "/dead-letters/export", params=query) as answer:
                if answer.is_error:
                    answer.read()
                    raise _error(answer)
                for line in answer.iter_lines():
                    yield cast(DeadLetterDetail, json.loads(line))
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise self._unavailable(error) from error

    def edit_dead_letter(self, letter_id: str, input: Mapping[str, Any]) -> DeadLetterDetail:
        """Give its step another input, checked by the agent's schema; what it was stays in `edits`."""
        return cast(DeadLetterDetail, self._act(letter_id, "edit", {"input": dict(input)}))

    def redrive(
        self,
        letter_id: str,
        *,
        edit: Mapping[str, Any] | None = None,
        message: Mapping[str, Any] | None = None,
        dry_run: bool = False,
    ) -> Redriven:
        """Put its step back, with another input if `edit` is given; a second time changes nothing.

        For undecodable bytes `message` says what they should have been: it names steps that wait for a worker.
        """
        given = {"edit": edit, "message": message, "dry_run": dry_run or None}
        body = {name: value for name, value in given.items() if value is not None}
        return cast(Redriven, self._act(letter_id, "redrive", body))

    def redrive_many(
        self,
        *,
        ids: Sequence[str] | None = None,
        per_second: float | None = None,
        dry_run: bool = False,
        **wanted: Any,
    ) -> Redriven:
        """Put back every open one that fits all that is given (`wanted` as in `dead_letters`), at most 10,000.

        With `per_second` no more than so many of them begin each second; the call itself does not wait for that.
        """
        chosen = {
            name: value for name, value in {**_plain(wanted), "ids": ids and list(ids)}.items() if value is not None
        }
        pace = {} if per_second is None else {"per_second": per_second}
        body = {"filter": chosen, "dry_run": dry_run, **pace}
        return cast(Redriven, self._send("POST", "/dead-letters/redrive", body=body))

    def discard(self, letter_id: str, reason: str) -> DeadLetterDetail:
        return cast(DeadLetterDetail, self._act(letter_id, "discard", {"reason": reason}))

    def note(self, letter_id: str, text: str) -> DeadLetterDetail:
        """Add a note to a dead letter; it is kept as it is, with your key's name and the time."""
        return cast(DeadLetterDetail, self._act(letter_id, "notes", {"text": text}))

    def questions(
        self, *, state: str | None = None, task: str | None = None, limit: int | None = None
    ) -> Iterator[Question]:
        return cast(Iterator[Question], self._pages("/questions", {"state": state, "task": task}, limit))

    def answer(self, question_id: str, text: str) -> Question:
        """Raises `Conflict` when the question is not open any more."""
        return cast(Question, self._send("POST", f"/questions/{_part(question_id)}/answer", body={"text": text}))

    # --- steering

    def pause_task(self, task_id: str, reason: str = "") -> TaskDetail:
        """Begin no more of its steps; what runs goes on, and so does its deadline."""
        return cast(TaskDetail, self._send("POST", f"/tasks/{_part(task_id)}/pause", body={"reason": reason}))

    def resume_task(self, task_id: str) -> TaskDetail:
        return cast(TaskDetail, self._send("POST", f"/tasks/{_part(task_id)}/resume"))

    def pause_team(self, team: str, agent: str | None = None, *, reason: str = "") -> list[Pause]:
        """Begin no more steps of a team, or of one of its agents. Returns all that is paused."""
        return cast(list[Pause], self._send("POST", f"{_team(team, agent)}/pause", body={"reason": reason})["items"])

    def resume_team(self, team: str, agent: str | None = None) -> list[Pause]:
        return cast(list[Pause], self._send("POST", f"{_team(team, agent)}/resume")["items"])

    def pauses(self) -> list[Pause]:
        """What is paused: by whom, why, since when."""
        return cast(list[Pause], self._get("/pauses")["items"])

    def limits(self) -> list[Limit]:
        """Agents of which only so many steps run at once."""
        return cast(list[Limit], self._get("/limits")["items"])

    def drain(self, worker: str) -> list[Worker]:
        """Have one worker take nothing new, finish what it holds, and end."""
        return cast(list[Worker], self._send("POST", f"/workers/{_part(worker)}/drain")["items"])

    def overview(self, since: str | None = None) -> Overview:
        """Everything `orchestrator top` shows; `since` is the `cursor` of an earlier one."""
        return cast(Overview, self._get("/overview", {"since": since}))

    # --- the installation

    def workers(self) -> list[Worker]:
        return cast(list[Worker], self._get("/workers")["items"])

    def queues(self) -> list[Queue]:
        return cast(list[Queue], self._get("/queues")["items"])

    def teams(self) -> Iterator[Team]:
        return cast(Iterator[Team], self._pages("/teams", {}, None))

    def team(self, name: str, digest: str | None = None) -> TeamDetail:
        return cast(TeamDetail, self._get(f"/teams/{_part(name)}", {"digest": digest}))

    def ready(self) -> Readiness:
        """Raises `Unavailable` while the service cannot serve."""
        return cast(Readiness, self._get("/ready"))

    # --- HTTP

    def _act(self, letter_id: str, verb: str, body: Mapping[str, Any]) -> Any:
        return self._send("POST", f"/dead-letters/{_part(letter_id)}/{verb}", body=dict(body))

    def _submit_list(self, tasks: list[dict[str, Any]], start: int) -> list[Created | OrchestratorError]:
        """One list, halved where its body is larger than the service takes. `start` is the place of its first item."""
        try:
            answer = self._send_again("/tasks", tasks)
        except TooLarge as error:
            if len(tasks) == 1:
                return [error]
            half = len(tasks) // 2
            return [*self._submit_list(tasks[:half], start), *self._submit_list(tasks[half:], start + half)]
        return [
            _item_error(item["problem"], index, start) if "problem" in item else item
            for index, item in enumerate(answer["items"])
        ]

    def _send_again(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Any:
        """POST what carries its own idempotency keys: once more if the service does not answer."""
        try:
            return self._send("POST", path, body=body, headers=headers)
        except Unavailable:
            return self._send("POST", path, body=body, headers=headers)

    def _get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        return self._answer("GET", path, query=query).json()

    def _send(self, method: str, path: str, *, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        return self._answer(method, path, body=body, headers=headers).json()

    def _pages(self, path: str, query: Mapping[str, Any], limit: int | None) -> Iterator[Any]:
        cursor: str | None = query.get("cursor")
        left = limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(_PAGE, left)
            page = self._get(path, {**query, "limit": size, "cursor": cursor})
            yield from page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return
            left = None if left is None else left - len(page["items"])

    def _answer(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        params = {name: value for name, value in (query or {}).items() if value is not None}
        content = None if body is None else _encode(body)
        sent = {**({"Content-Type": "application/json"} if content is not None else {}), **(headers or {})}
        until = time.monotonic() + self._timeout_seconds
        while True:
            try:
                answer = self._http.request(method, path, params=params, content=content, headers=sent)
            except (httpx.TransportError, httpx.InvalidURL) as error:
                raise self._unavailable(error) from error
            if not answer.is_error:
                return answer
            # What was refused for coming too often was not begun: it may come again, whatever it is.
            pause = _pause_seconds(answer) if answer.status_code == HTTPStatus.TOO_MANY_REQUESTS else None
            if pause is None or time.monotonic() + pause > until:
                raise _error(answer)
            time.sleep(pause)

    def _stream(self, task_id: str, after: str | None) -> Iterator[Event]:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": after} if after else {})}
        timeout = httpx.Timeout(5.0, read=_SILENCE_SECONDS)
        path = f"/tasks/{_part(task_id)}/events"
        with self._http.stream("GET", path, headers=headers, timeout=timeout) as answer:
            if answer.is_error:
                answer.read()
                raise _error(answer)
            for line in answer.iter_lines():
                # We send one line of data an event, and it holds the cursor and the type too.
                if line.startswith("data: "):
                    yield cast(Event, json.loads(line.removeprefix("data: ")))

    def _unavailable(self, error: Exception) -> Unavailable:
        reason = error.text if isinstance(error, OrchestratorError) else type(error).__name__
        return Unavailable(
            f"cannot reach the service at {self.url} ({reason}): start it with `orchestrator dev`, "
            "or set ORCHESTRATOR_API_URL or ORCHESTRATOR_DATA_DIR"
        )


def _pause_seconds(answer: httpx.Response) -> float | None:
    """What Retry-After says; null where it says nothing that can be waited for."""
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else None


def _error(answer: httpx.Response) -> OrchestratorError:
    problem: dict[str, Any] = {}
    with suppress(ValueError):
        found = answer.json()
        problem = found if isinstance(found, dict) else {}
    return _problem_error(problem, answer.status_code)


def _problem_error(problem: Mapping[str, Any], status: int = 500) -> OrchestratorError:
    """The error that a problem object stands for; `status` where it names none."""
    status = int(problem.get("status", status))
    code = str(problem.get("code", "internal"))
    text = str(problem.get("detail", f"the service answered {status} without saying why"))
    return error_of(status, code, text, str(problem.get("field", "")))


def _item_error(problem: Mapping[str, Any], index: int, start: int) -> OrchestratorError:
    """The error of one item of a list that began at `start`: its field names the place in the caller's list."""
    error = _problem_error(problem)
    if isinstance(error, InvalidInput) and start:
        field = f"{start + index}{error.field.removeprefix(str(index))}"
        text = f"{field}{error.text.removeprefix(error.field)}" if error.text.startswith(error.field) else error.text
        return InvalidInput(text, field=field)
    return error


def _check_key(key: str | None) -> None:
    """A header cannot carry every text."""
    if key is not None and not (key.isascii() and key.isprintable()):
        raise InvalidInput("use printable ASCII characters without spaces", field="idempotency_key")


def _plain(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Filters as they are sent: times as RFC 3339. The service refuses those it does not know."""
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in wanted.items()}


def _encode(body: Any) -> bytes:
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"what was to be sent is not JSON: {error}") from None


def _team(team: str, agent: str | None) -> str:
    return f"/teams/{_part(team)}" + ("" if agent is None else f"/agents/{_part(agent)}")


def _part(text: str) -> str:
    """One segment of a path, whatever it holds; an empty one would name another resource."""
    return quote(text, safe="") or "%20"
