"""The walks: for every crash point what leads a process to it, and what must be true when all is well again.

The course of a walk is a generator: it prepares, then yields three times. It goes on when its process runs with the
variable set (the API: answers), when that process is dead, and when all processes are back, without the variable.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

import httpx

from contracts.errors import Failure
from contracts.messages import Message, SigningKeys, StepRef
from contracts.settlements import Accept, Ask, Bury, Return
from contracts.topology import MessageKind
from shared_state import dead_letters
from shared_state.broker.frames import make_frame
from shared_state.broker.quarantine import describe
from shared_state.broker.wire import pack
from shared_state.engine import new_id
from tests.faults.crash_scene import PHANTOM_SECONDS, Scene, free_port

Course = Iterator[None]
Process = Literal["worker", "loops", "api"]
FAILURE = Failure(code="agent.error", text="failed on purpose")
OK = ["succeeded"]
AGAIN = ["expired", "succeeded"]
"""The first attempt's lease lapsed, the second one did it."""


@dataclass(frozen=True)
class Walk:
    """`at` is what ORCHESTRATOR_CRASH_AT says; `name` begins with the point and tells walks to it apart."""

    name: str
    process: Process
    course: Callable[[Scene], Course]
    at: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def point(self) -> str:
        return self.name.partition(" ")[0]

    @property
    def queue(self) -> str:
        return self.name.lower().replace(" ", "-")


def walks() -> list[Walk]:
    """All of them; those whose name is a point's alone are one for each."""
    return [*_worker_walks(), *_quarantine_walks(), *_loop_walks(), *_api_walks()]


# Workers: a task on the walk's own queue, and the attempts of its steps as they must have been in the end


def _worker_walks() -> Iterator[Walk]:
    # First: a duplicate of its message, which a sweep publishes, would be acknowledged before the step has run.
    yield _work("C30", {"a": "echo"}, a=OK)
    chain = {"a": "echo", "b": "echo<a"}
    yield _work("C06", {"a": "echo"}, a=OK)
    yield _work("C07", {"a": "echo"}, a=AGAIN)
    yield _work("C08", {"a": "echo"}, a=AGAIN)
    yield _work("C08 reviewer", {"a": "draft"}, at="C08:2", a=["succeeded", "expired", "succeeded"])
    yield _work("C09", {"a": "echo"}, a=OK)
    yield _work("C09 taken on", chain, at="C09:2", a=AGAIN, b=OK)
    yield _work("C14", chain, a=AGAIN, b=OK)
    yield _work("C15", chain, a=AGAIN, b=OK)
    yield _work("C15 propose", {"a": "draft"}, a=[*AGAIN, "succeeded"])
    yield _work("C15 approve", {"a": "draft"}, at="C15:2", a=["succeeded", *AGAIN])
    yield _work("C16", chain, a=OK, b=AGAIN)
    yield _work("C16 last", {"a": "echo"}, a=OK)
    yield _work("C17", {"a": "echo", "b": "echo<a", "c": "echo<a", "d": "echo<a"}, slots=1, a=OK, any=[AGAIN, OK, OK])
    yield _work("C23", None, **{"@plan": AGAIN, "first": OK, "second": OK})
    yield _work("C16 planner", None, **{"@plan": OK, "first": AGAIN, "second": OK})
    yield _work("C24", {"a": "draft"}, a=["succeeded", *AGAIN])
    yield Walk("C10", "worker", _talking("C10", asked=2))
    yield Walk("C11", "worker", _talking("C11", asked=1))
    yield Walk("C15 ask", "worker", _asking)
    yield Walk("C15 bury", "worker", _burying)
    yield Walk("C43", "worker", _handing_back, settings={"worker_slots": 1})


def _work(
    name: str,
    steps: Mapping[str, str] | None,
    *,
    at: str = "",
    slots: int = 100,
    any: list[list[str]] | None = None,
    **attempts: list[str],
) -> Walk:
    """`attempts` by step; `any` those of the other steps, whichever had them."""

    def course(scene: Scene) -> Course:
        task = scene.submit_for(name, steps)
        yield
        yield
        yield
        scene.wait(task)
        made = _attempts(scene, task)
        for key, states in attempts.items():
            assert made.pop(key) == states, (key, _attempts(scene, task))
        assert sorted(made.values()) == sorted(any or []), made

    return Walk(name, "worker", course, at=at, settings={"worker_slots": slots})


def _talking(name: str, *, asked: int) -> Callable[[Scene], Course]:
    """How often the model is asked, and paid, is what the two points differ in."""

    def course(scene: Scene) -> Course:
        task = scene.submit_for(name, {"a": "talk"})
        yield
        yield
        yield
        scene.wait(task)
        assert _attempts(scene, task) == {"a": AGAIN}
        assert [ask.model for ask in scene.provider.ledger].count(name.lower()) == asked

    return course


def _asking(scene: Scene) -> Course:
    task = scene.submit_for("C15 ask", {"a": "ask"})
    yield
    yield
    assert not _questions(scene, task)
    yield
    scene.until(lambda: _questions(scene, task), "the question is asked again")
    (question,) = _questions(scene, task)
    _expect(200, scene.post(f"/questions/{question}/answer", {"text": "yes"}))
    scene.wait(task)
    assert _attempts(scene, task) == {"a": ["expired", "waiting", "succeeded"]}


def _burying(scene: Scene) -> Course:
    """Its one attempt is over with the crash, as it would have been without."""
    task = scene.submit_for("C15 bury", {"a": "fail"})
    yield
    yield
    assert not scene.query("select id from dead_letters where task_id = %(id)s", id=task)
    yield
    scene.wait(task, state="failed")
    assert scene.letter(task)["state"] == "open"


def _handing_back(scene: Scene) -> Course:
    """One message for two steps, and one slot: the second one cannot wait so long."""
    task = scene.submit_for("C43", {"a": "nap", "b": "nap"}, publish=False)
    refs = [StepRef(id=row["step_id"], epoch=row["epoch"]) for row in scene.driver.ready() if row["task_id"] == task]
    scene.publisher.publish([Message(id=new_id(), kind=MessageKind.EXECUTE, queue="c43", steps=tuple(refs))])
    yield
    yield
    yield
    scene.wait(task)
    assert sorted(_attempts(scene, task).values()) == [AGAIN, OK]


# Bytes that are no message


def _quarantine_walks() -> Iterator[Walk]:
    yield Walk("C41", "worker", _forged("c41", stored=1))
    yield Walk("C42", "worker", _forged("c42", stored=0))


def _forged(queue: str, *, stored: int) -> Callable[[Scene], Course]:
    """A message that a stranger has signed. At least once in the dead letters, whatever happens in between."""

    def course(scene: Scene) -> Course:
        scene.make_team(queue)
        message = Message(id=new_id(), kind=MessageKind.EXECUTE, queue=queue, steps=(StepRef(id=new_id(), epoch=0),))
        stranger = SigningKeys({"test": b"a secret of a stranger, who guesses"})
        scene.broker.lpush(queue, make_frame(pack(message, stranger, "stranger")))
        yield
        yield
        assert len(_kept(scene, queue)) == stored
        yield
        scene.restore_unacknowledged()
        scene.until(lambda: len(_kept(scene, queue)) == stored + 1, "the broker has handed it over again", 30)

    return course


# Loops: rows that only they move on


def _loop_walks() -> Iterator[Walk]:
    for point in ("C04", "C05", "C28"):
        yield Walk(point, "loops", _unpublished(point))
    yield Walk("C29", "loops", _unpublished("C29"), settings={"broker_url": f"redis://127.0.0.1:{free_port()}/0"})
    for name in ("C18", "C15 sweeper", "C31"):
        yield Walk(name, "loops", _lapsed(name))
    yield Walk("C33", "loops", _due)
    yield Walk("C32 deadline", "loops", _overdue)
    yield Walk("C21", "loops", _webhook("C21", told=0))
    yield Walk("C39", "loops", _webhook("C39", told=1))
    yield Walk("C40", "loops", _old)


def _unpublished(name: str) -> Callable[[Scene], Course]:
    def course(scene: Scene) -> Course:
        task = scene.submit_for(name, {"a": "echo"}, publish=False)
        yield
        yield
        yield
        scene.wait(task)
        assert _attempts(scene, task) == {"a": OK}

    return course


def _lapsed(name: str) -> Callable[[Scene], Course]:
    def course(scene: Scene) -> Course:
        task = scene.submit_for(name, {"a": "echo"}, publish=False)
        scene.phantom(task)
        yield
        yield
        yield
        scene.wait(task)
        assert _attempts(scene, task) == {"a": AGAIN}

    return course


def _due(scene: Scene) -> Course:
    task = scene.submit_for("C33", {"a": "echo"}, publish=False)
    scene.settle_by_hand(task, Return(failure=FAILURE, after_seconds=PHANTOM_SECONDS))
    yield
    yield
    yield
    scene.wait(task)
    assert _attempts(scene, task) == {"a": ["failed", "succeeded"]}


def _overdue(scene: Scene) -> Course:
    task = scene.submit_for("C32 deadline", {"a": "echo"}, publish=False, deadline_seconds=PHANTOM_SECONDS)
    yield
    yield
    assert scene.task(task)["state"] == "running"
    yield
    ended = scene.wait(task, state="cancelled")
    assert ended["error"]["code"] == "task.deadline"
    assert _attempts(scene, task) == {}


def _webhook(name: str, *, told: int) -> Callable[[Scene], Course]:
    """At least once: a crash between telling and noting it tells once more. Which letter comes first is chance."""

    def course(scene: Scene) -> Course:
        task = scene.submit_for(name, {"a": "echo"}, publish=False)
        scene.settle_by_hand(task, Bury(failure=FAILURE))
        letter = scene.letter(task)["id"]
        before = scene.receiver.told.copy()
        yield
        yield
        noted = {row["id"] for row in scene.query("select id from dead_letters where webhook_sent_at is not null")}
        unnoted = [each for each in scene.receiver.told - before if UUID(each) not in noted]
        assert len(unnoted) == told, (unnoted, noted)
        yield
        # As if the hold were over: a minute, moved in the rows and not on the clock.
        scene.query("update dead_letters set webhook_due_at = clock_timestamp() where webhook_due_at is not null")
        scene.until(lambda: scene.letter(task)["webhook_sent_at"], "it is noted that the webhook was told")
        scene.until(lambda: all(scene.receiver.told[each] > 1 for each in unnoted), "what was not noted is told again")
        assert scene.receiver.told[str(letter)] >= 1

    return course


def _old(scene: Scene) -> Course:
    task = scene.submit_for("C40", {"a": "echo"}, publish=False)
    scene.settle_by_hand(task, Accept(output={}))
    scene.query("update tasks set finished_at = finished_at - interval '1 year' where id = %(id)s", id=task)
    raw = _keep_bytes(scene, "c40")
    dead_letters.discard(scene.engine, "default", raw, "no longer needed", "on call")
    scene.query("update dead_letters set closed_at = closed_at - interval '1 year' where id = %(id)s", id=raw)
    yield
    yield
    assert not scene.query("select id from tasks where id = %(id)s", id=task)
    assert _kept(scene, "c40")
    yield
    scene.until(lambda: not _kept(scene, "c40"), "the pruner has come to the next table")


# The API: a request that gets no answer, then the same one again


def _api_walks() -> Iterator[Walk]:
    yield Walk("C01", "api", _submitting("C01", exists=False))
    yield Walk("C02", "api", _submitting("C02", exists=True))
    yield Walk("C03", "api", _submitting("C03", exists=True))
    yield Walk("C44", "api", _forking)
    yield Walk("C32", "api", _cancelling("C32", state="running"))
    yield Walk("C20", "api", _cancelling("C20", state="cancelling"))
    yield Walk("C34", "api", _answering("C34", again=200))
    yield Walk("C22", "api", _answering("C22", again=409))
    yield Walk("C35", "api", _redriving("C35", state="open"))
    yield Walk("C25", "api", _redriving("C25", state="redriven"))
    yield Walk("C36", "api", _rewriting)
    yield Walk("C37", "api", _discarding("C37", state="open", again=200))
    yield Walk("C38", "api", _discarding("C38", state="discarded", again=409))


def _submitting(name: str, *, exists: bool) -> Callable[[Scene], Course]:
    def course(scene: Scene) -> Course:
        team = scene.make_team(name)
        body = {"team": team, "plan": {"steps": [{"id": "a", "agent": "echo"}]}}
        made = "select id from tasks where team_name = %(team)s"
        key = {"Idempotency-Key": f"walk-{name}"}
        yield
        scene.post("/tasks", body, **key)
        yield
        before = scene.query(made, team=team)
        assert len(before) == exists
        yield
        answer = scene.post("/tasks", body, **key)
        assert answer is not None
        assert answer.status_code == 201
        assert ("Idempotent-Replayed" in answer.headers) is exists
        (task,) = scene.query(made, team=team)
        assert answer.json()["id"] == str(task["id"])
        scene.wait(task["id"])
        assert _attempts(scene, task["id"]) == {"a": OK}

    return course


def _forking(scene: Scene) -> Course:
    """A task that has ended is forked from its only step; nobody works on it before it ends by hand."""
    task = scene.submit_for("C44", {"a": "echo"}, publish=False)
    scene.settle_by_hand(task, Accept(output={"key": "a"}))
    path, body, key = f"/tasks/{task}/fork", {"from": "a"}, {"Idempotency-Key": "walk-C44"}
    made = "select id from tasks where team_name = 'c44' and id <> %(id)s"
    yield
    assert scene.post(path, body, **key) is None
    yield
    assert not scene.query(made, id=task)
    yield
    _expect(201, scene.post(path, body, **key))
    _expect(201, scene.post(path, body, **key))
    (fork,) = scene.query(made, id=task)
    scene.wait(fork["id"])
    assert _attempts(scene, fork["id"]) == {"a": OK}


def _cancelling(name: str, *, state: str) -> Callable[[Scene], Course]:
    """One step is claimed by a worker that never comes back, the other waits for it."""

    def course(scene: Scene) -> Course:
        task = scene.submit_for(name, {"a": "echo", "b": "echo<a"}, publish=False)
        scene.phantom(task, lease_seconds=300)
        yield
        assert scene.post(f"/tasks/{task}/cancel", None) is None
        yield
        assert scene.task(task)["state"] == state
        yield
        _expect(200, scene.post(f"/tasks/{task}/cancel", None))
        scene.let_lapse(task)
        scene.wait(task, state="cancelled")
        assert not scene.query("select step_id from outputs where task_id = %(id)s", id=task)
        assert _attempts(scene, task) == {"a": ["cancelled"]}

    return course


def _answering(name: str, *, again: int) -> Callable[[Scene], Course]:
    def course(scene: Scene) -> Course:
        task = scene.submit_for(name, {"a": "ask"}, publish=False)
        scene.settle_by_hand(task, Ask(text="May I?"))
        (question,) = _questions(scene, task)
        path, body = f"/questions/{question}/answer", {"text": "yes"}
        yield
        assert scene.post(path, body) is None
        yield
        yield
        _expect(again, scene.post(path, body))
        scene.wait(task)
        assert _attempts(scene, task) == {"a": ["waiting", "succeeded"]}

    return course


def _redriving(name: str, *, state: str) -> Callable[[Scene], Course]:
    def course(scene: Scene) -> Course:
        task = scene.submit_for(name, {"a": "echo", "b": "echo<a"}, publish=False)
        scene.settle_by_hand(task, Bury(failure=FAILURE))
        letter = str(scene.letter(task)["id"])
        yield
        assert scene.post(f"/dead-letters/{letter}/redrive", {}) is None
        yield
        assert scene.letter(task)["state"] == state
        yield
        answer = scene.post(f"/dead-letters/{letter}/redrive", {})
        assert answer is not None
        assert answer.json()["redriven" if state == "open" else "unchanged"] == [letter]
        scene.wait(task)
        assert _attempts(scene, task) == {"a": ["failed", "succeeded"], "b": OK}

    return course


def _rewriting(scene: Scene) -> Course:
    task = scene.submit_for("C36", {"a": "echo"}, publish=False)
    step = next(row["step_id"] for row in scene.driver.ready() if row["task_id"] == task)
    letter = _keep_bytes(scene, "c36")
    body = {"message": {"steps": [{"id": str(step)}]}}
    yield
    assert scene.post(f"/dead-letters/{letter}/redrive", body) is None
    yield
    assert _state(scene, letter) == "open"
    yield
    # Meanwhile the step may have run by itself: then there is nothing to send a message for.
    answer = scene.post(f"/dead-letters/{letter}/redrive", body)
    assert answer is not None
    assert answer.status_code in (200, 422), answer.text
    scene.wait(task)
    assert _attempts(scene, task) == {"a": OK}


def _discarding(name: str, *, state: str, again: int) -> Callable[[Scene], Course]:
    def course(scene: Scene) -> Course:
        task = scene.submit_for(name, {"a": "echo"}, publish=False)
        scene.settle_by_hand(task, Bury(failure=FAILURE))
        path, body = f"/dead-letters/{scene.letter(task)['id']}/discard", {"reason": "not worth it"}
        yield
        assert scene.post(path, body) is None
        yield
        assert scene.letter(task)["state"] == state
        yield
        _expect(again, scene.post(path, body))
        assert scene.letter(task)["state"] == "discarded"
        assert scene.states(task) == {"a": "failed"}

    return course


# Looks


def _attempts(scene: Scene, task: UUID) -> dict[str, list[str]]:
    states: dict[str, list[str]] = {}
    for attempt in scene.attempts(task):
        states.setdefault(attempt["key"], []).append(attempt["state"])
    return states


def _questions(scene: Scene, task: UUID) -> list[UUID]:
    return [row["id"] for row in scene.query("select id from questions where task_id = %(id)s", id=task)]


def _keep_bytes(scene: Scene, queue: str) -> UUID:
    """The dead letter of bytes that were no message."""
    dead_letters.record_raw(scene.engine, [describe(queue, "message.undecodable", "made for a walk", b"{{{")])
    (kept,) = _kept(scene, queue)
    return kept


def _kept(scene: Scene, queue: str) -> list[UUID]:
    rows = scene.query("select id from dead_letters where step_id is null and queue = %(queue)s", queue=queue)
    return [row["id"] for row in rows]


def _state(scene: Scene, letter: UUID) -> str:
    state: str = scene.query("select state from dead_letters where id = %(id)s", id=letter)[0]["state"]
    return state


def _expect(status: int, answer: httpx.Response | None) -> None:
    assert answer is not None, "the API does not answer"
    assert answer.status_code == status, (answer.status_code, answer.text)
