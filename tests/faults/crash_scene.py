"""What the walks share: one house, its API as a client sees it, and who listens to the webhook."""

import json
import socket
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import redis as redis_client

from contracts.assignments import Assignment
from contracts.messages import StepRef
from contracts.plans import Plan
from contracts.settlements import Settlement
from shared_state import keys, outbox
from shared_state.crash_points import CRASH_AT, CRASH_PERMITTED, EXIT_CODE
from shared_state.tasks import Created, Submission, submit
from tests.acceptance.house import House
from tests.faults.crash_team import team
from tests.faults.staff import Member, Staff
from tests.integration.driver import Driver
from tests.providers.scripted import Say, ScriptedProvider

PHANTOM_SECONDS = 0.05
"""The lease of a worker that is already dead when the walk begins."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Receiver:
    """Counts by id what the webhook tells."""

    def __init__(self) -> None:
        told: Counter[str] = Counter()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                told[json.loads(body)["dead_letter"]["id"]] += 1
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: the test's output is read by people."""

        self.told = told
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Scene(House):
    """A house in which single processes are started so that they die at a point; their queues are their walk's."""

    def __init__(self, folder: Path, database_url: str, broker_url: str) -> None:
        self.receiver = Receiver()
        self.provider = ScriptedProvider()
        self.provider.on(lambda ask: True, Say("Something."))
        self.provider.__enter__()
        super().__init__(
            folder,
            database_url,
            broker_url,
            listen_port=free_port(),
            dead_letter_webhook_url=self.receiver.url,
            sweep_seconds=0.3,
        )
        self.driver = Driver(self.engine)
        self._armed = Staff(folder, lambda _name: None, bare=True)
        self.broker = redis_client.Redis.from_url(broker_url)
        self._key = keys.create(self.engine, "default", "on call", "admin")

    def stop(self) -> None:
        try:
            self._armed.close()
            super().stop()
        finally:
            self.receiver.close()
            self.provider.__exit__(None, None, None)
            self.broker.close()

    # Processes

    def start_armed(self, name: str, program: Sequence[str], at: str, **settings: object) -> Member:
        """A process that is to die at a point, and is not started again."""
        own = self.settings.model_copy(update=settings)
        armed = {CRASH_AT: at, CRASH_PERMITTED: "tests"}
        return self._armed.hire(Member(name, tuple(program), own, environment=armed, wanted=False))

    def start_worker_on(self, queues: Sequence[str]) -> None:
        """One that serves them all, and lives."""
        name = "survivor"
        self._start(name, ["-m", "workers", *queues], self.settings.model_copy(update={"worker_name": name}))

    def said(self, member: Member) -> str:
        """The end of it."""
        log = self._armed.log(member)
        return log.read_text(errors="replace")[-800:] if log.exists() else ""

    def died_at(self, member: Member, point: str) -> str | None:
        """What is wrong with how it ended; null when it died at that point. Only for one that has ended."""
        if member.exit_code == EXIT_CODE and f"crash point {point}\n" in self.said(member):
            return None
        return f"it ended with {member.exit_code}, not at {point}: {self.said(member)}"

    def kill_armed(self, member: Member) -> None:
        self._armed.kill(member)
        self._armed.wait_down(member)

    # What is in the database before the process comes

    def make_team(self, walk: str) -> str:
        """The name of a team whose agents are all on the walk's own queue, which has the same name."""
        name = walk.lower().replace(" ", "-")
        self.apply(team(name, name, self.provider.url))
        return name

    def submit_for(self, walk: str, steps: Mapping[str, str] | None, *, publish: bool = True, **fields: Any) -> UUID:
        """`steps` maps keys to `agent` or `agent<need`; null leaves them to the planner."""
        plan = None if steps is None else Plan.model_validate({"steps": [_step(*each) for each in steps.items()]})
        submission = Submission(team=self.make_team(walk), plan=plan, **fields)
        submitted = submit(self.engine, "default", [submission])
        created = submitted.results[0]
        assert isinstance(created, Created), created
        if publish:
            outbox.publish(self.publisher, submitted.wakeups)
        return created.task_id

    def phantom(self, task_id: UUID, *, lease_seconds: float = PHANTOM_SECONDS) -> Assignment:
        """The task's one ready step, claimed by a worker that does not exist."""
        refs = [
            StepRef(id=row["step_id"], epoch=row["epoch"]) for row in self.driver.ready() if row["task_id"] == task_id
        ]
        (assignment,) = self.driver.claim_refs(refs, "phantom", lease_seconds)
        return assignment

    def settle_by_hand(self, task_id: UUID, settlement: Settlement) -> None:
        done, wakeups = self.driver.settle(self.phantom(task_id, lease_seconds=30), settlement)
        assert done
        assert not wakeups

    def let_lapse(self, task_id: UUID) -> None:
        """Let the leases of a task lapse now: moved in the rows, not on the clock."""
        lapsed = "lease_until = clock_timestamp() - interval '1 second'"
        self.query(f"update steps set {lapsed} where task_id = %(id)s and lease_until is not null", id=task_id)

    def letter(self, task_id: UUID) -> dict[str, Any]:
        (found,) = self.query("select * from dead_letters where task_id = %(id)s", id=task_id)
        return found

    def restore_unacknowledged(self) -> None:
        """As if the visibility timeout were over: hours, moved in the broker's row and not on the clock."""
        for tag in self.broker.zrange("unacked_index", 0, -1):
            self.broker.zadd("unacked_index", {tag: 1})

    # The API

    def post(self, path: str, body: object, **headers: str) -> httpx.Response | None:
        """Null when the API died over it."""
        url = f"http://127.0.0.1:{self.settings.listen_port}/v1{path}"
        with suppress(httpx.TransportError):
            return httpx.post(url, json=body, headers={"Authorization": f"Bearer {self._key}", **headers}, timeout=15)
        return None


def _step(key: str, text: str) -> dict[str, Any]:
    agent, _, need = text.partition("<")
    return {"id": key, "agent": agent, "needs": [need] if need else []}
