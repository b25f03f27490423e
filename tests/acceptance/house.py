"""A whole house of real processes: workers and loops on a real Postgres and Redis, to be killed, stopped and mended."""

import os
import re
import secrets
import signal
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from uuid import UUID

import httpx

from contracts.errors import Unavailable
from contracts.plans import Plan
from contracts.teams import Team
from orchestrator.child import Child
from orchestrator.logs import RotatingLog
from shared_state import outbox, questions, sweep, verify
from shared_state.broker.app import make_app, signing_keys
from shared_state.broker.publisher import Publisher
from shared_state.engine import make_engine, transaction
from shared_state.settings import Settings, child_environment, load
from shared_state.statements import query
from shared_state.tasks import Created, Submission, submit
from shared_state.teams import apply

MARK = "ACCEPTANCE_HOUSE"
LOOPS = "loops"
API = "api"
FLOWER = "flower"
FAST = {"lease_seconds": 5.0, "sweep_seconds": 0.5, "republish_seconds": 2.0, "verify_seconds": 2.0}
SIGNING_KEYS = "test:a secret of the tests"
"""The key with which `integration.test_broker_worker` signs its frames."""
ENDED = ("succeeded", "failed", "cancelled")
Step = dict[str, Any]


class Rescues(NamedTuple):
    """What had to be mended so far. Without a fault no lease expires and none is recovered; `republished` may also be a
    backlog that nobody had a slot for, so it counts apart."""

    expired: int
    recovered: int
    republished: int


class House:
    """`folder` holds the logs, `home` the code of what is started.

    Every process in it carries a mark, by which `leftovers` finds what was left behind."""

    def __init__(self, folder: Path, database_url: str, broker_url: str, **settings: object) -> None:
        self.folder = folder
        values = {**FAST, "signing_keys": SIGNING_KEYS, "data_dir": str(folder), **settings}
        self.settings = load({}, None, {"database_url": database_url, "broker_url": broker_url, **values})
        self.engine = make_engine(database_url)
        self.publisher = Publisher(make_app(self.settings), signing_keys(self.settings))
        self.processes: dict[str, Child] = {}
        self.home = Path.cwd()
        self._mark = secrets.token_hex(8)
        self.apply(diagnostics())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            self.publisher.close()
            self.engine.dispose()

    # Processes

    def start_workers(self, *names: str, by_role: bool = False, **settings: object) -> None:
        """Start them and wait until each has said that it runs. `by_role`: each serves the role it is named for."""
        for name in names:
            own = self.settings.model_copy(update={"worker_name": name, **settings})
            self._start(name, ["-m", "workers", *([name] if by_role else [])], own)
        self.until(lambda: set(names) <= self._reported(names), f"{names} run", 30)

    def start_loops(self, **settings: object) -> None:
        self._start(LOOPS, ["-m", "orchestrator", "loops"], self.settings.model_copy(update=settings))

    def await_loops(self) -> None:
        """Until they have said that they run."""
        self.until(lambda: "loops.started" in self.processes[LOOPS].log.tail(100_000), "the loops run", 30)

    def start_api(self, **settings: object) -> None:
        """On the port of the settings; wait until it answers."""
        self._start(API, ["-m", "orchestrator", "api"], self.settings.model_copy(update=settings))
        self.until(self.answers, "the API answers", 30)

    def answers(self) -> bool:
        """Whether the API does."""
        with suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{self.settings.listen_port}/health", trust_env=False).is_success
        return False

    def start_flower(self, name: str = FLOWER, **settings: object) -> None:
        self._start(name, ["-m", "orchestrator", "flower"], self.settings.model_copy(update=settings))

    def pid(self, name: str) -> int:
        pid = self.processes[name].pid
        assert pid is not None, f"{name} has ended: {self.processes[name].exit_code}\n{self.tail(name)}"
        return pid

    def signal(self, name: str, number: signal.Signals) -> None:
        os.kill(self.pid(name), number)

    def kill(self, name: str) -> None:
        """kill -9, and wait until it is gone."""
        os.kill(self.pid(name), signal.SIGKILL)
        assert self.processes[name].wait(5)

    def exit_code(self, name: str, deadline_seconds: float) -> int | None:
        """Null when it has not ended within that time."""
        return self.processes[name].exit_code if self.processes[name].wait(deadline_seconds) else None

    def stop(self) -> None:
        """SIGTERM to all; fails when one had to be killed, or when any process of this house is left."""
        alive = {name: child for name, child in self.processes.items() if child.alive()}
        for child in alive.values():
            child.send(signal.SIGTERM)
        late = [name for name, child in alive.items() if not child.wait(15)]
        for name in late:
            self.processes[name].stop((signal.SIGKILL,))
        with suppress(AssertionError):
            self.until(lambda: not self.leftovers(), "nothing is left", 5)
        left = self.leftovers()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert not late, f"did not end on SIGTERM: {late}\n{self.tail(*late)}"
        assert not left, f"processes were left behind: {left}"
        codes = {name: child.exit_code for name, child in alive.items()}
        if codes.get(API) == -signal.SIGTERM:  # its server ends cleanly, then dies of the signal it was sent
            codes[API] = 0
        assert not any(codes.values()), f"exit codes {codes}\n{self.tail(*codes)}"

    def leftovers(self) -> dict[int, str]:
        """Command lines, by pid, of living processes of this house that are none of those it started itself."""
        own = {child.pid for child in self.processes.values()}
        found = {pid: _command_line(pid) for pid in _marked(f"{MARK}={self._mark}") if pid not in own}
        return {pid: line for pid, line in found.items() if line}

    def strays(self) -> dict[int, str]:
        """As `leftovers`, without the children that workers keep in order to fork attempts from them."""
        own = {child.pid for child in self.processes.values()}
        return {pid: line for pid, line in self.leftovers().items() if _parent(pid) not in own}

    def tail(self, *names: str) -> str:
        return "\n".join(f"--- {name}\n{self.processes[name].log.tail()[-1500:]}" for name in names)

    def _start(self, name: str, program: list[str], settings: Settings) -> None:
        child = self.processes.setdefault(name, Child(RotatingLog(self.folder / f"{name}.log")))
        environment = {**self.environment(settings), MARK: self._mark}
        child.start([sys.executable, *program], environment=environment, directory=self.home)

    def environment(self, settings: Settings) -> dict[str, str]:
        """That of a process of the code in `home`."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("ORCHESTRATOR_")}
        return {**kept, **child_environment(settings), "PYTHONPATH": str(self.home)}

    def _reported(self, names: Iterable[str]) -> set[str]:
        rows = self.query(
            "select name from workers where name = any(%(names)s) and pid = any(%(pids)s)",
            names=list(names),
            pids=[self.pid(name) for name in names],
        )
        return {row["name"] for row in rows}

    # Work

    def apply(self, team: Team) -> None:
        apply(self.engine, "default", team)

    def submit(self, steps: Iterable[Step], team: str = "diagnostics") -> UUID:
        plan = Plan.model_validate({"steps": list(steps)})
        submitted = submit(self.engine, "default", [Submission(team=team, plan=plan)])
        result = submitted.results[0]
        assert isinstance(result, Created), result
        outbox.publish(self.publisher, submitted.wakeups)
        return result.task_id

    def wait(self, task_id: UUID, deadline_seconds: float = 30, state: str = "succeeded") -> dict[str, Any]:
        """The task's row once it has ended; fails when it has not in time, or in another state."""
        self.until(lambda: self.task(task_id)["state"] in ENDED, f"task {task_id} ends", deadline_seconds)
        task = self.task(task_id)
        if task["state"] != state:
            open_steps = {key: state for key, state in self.states(task_id).items() if state != "succeeded"}
            raise AssertionError(f"{task['state']}: {task['error']}\n{open_steps}\n{self.tail(*self.processes)}")
        return task

    def expire(self, name: str) -> None:
        """What a supervisor does when it reaps a dead worker."""
        outbox.publish(self.publisher, sweep.expire_worker(self.engine, name))

    def answer(self, task_id: UUID, text: str) -> None:
        """The task's one open question, as a person does."""
        sql = "select id from questions where task_id = %(task)s and state = 'open'"
        (question,) = self.query(sql, task=task_id)
        outbox.publish(self.publisher, questions.answer(self.engine, "default", question["id"], text, "a person"))

    def task(self, task_id: UUID) -> dict[str, Any]:
        return self.query("select * from tasks where id = %(id)s", id=task_id)[0]

    def states(self, task_id: UUID) -> dict[str, str]:
        rows = self.query("select key, state from steps where task_id = %(id)s", id=task_id)
        return {row["key"]: row["state"] for row in rows}

    def attempts(self, task_id: UUID, key: str | None = None) -> list[dict[str, Any]]:
        """In the order they began, with the step's key and its accepted output's epoch and time, if any."""
        return self.query(
            """select s.key, a.*, o.epoch as accepted_epoch, o.accepted_at from attempts a
            join steps s on s.id = a.step_id left join outputs o on o.step_id = a.step_id
            where a.task_id = %(id)s and (%(key)s::text is null or s.key = %(key)s) order by a.started_at, a.epoch""",
            id=task_id,
            key=key,
        )

    def running(self, task_id: UUID, worker: str | None = None) -> list[str]:
        """Keys of the steps that run now."""
        return [
            attempt["key"]
            for attempt in self.attempts(task_id)
            if attempt["state"] == "running" and worker in (None, attempt["worker"])
        ]

    def rescues(self) -> Rescues:
        """Attempts that expired; leases that the loops have recovered, and entries they have published again."""
        (row,) = self.query("select count(*)::int as count from attempts where state = 'expired'")
        return Rescues(row["count"], self._counted("lease.recovered"), self._counted("backlog.republished"))

    def _counted(self, event: str) -> int:
        """What the loops' log says of it, all in all."""
        said = self.processes[LOOPS].log.tail(10_000_000)
        return sum(int(count) for count in re.findall(rf"{re.escape(event)} .*?\bcount=(\d+)", said))

    def violated(self) -> list[str]:
        """The lines in which the loops have reported a defect."""
        if LOOPS not in self.processes:
            return []
        said = self.processes[LOOPS].log.tail(10_000_000).splitlines()
        return [line for line in said if "invariant.violated" in line and "safety" in line]

    def violations(self, *kinds: str) -> list[verify.Violation]:
        return [each for each in verify.violations(self.engine) if not kinds or each.kind in kinds]

    def query(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        with transaction(self.engine) as connection:
            return [dict(row) for row in query(connection, sql, **parameters)]

    def until(self, condition: Callable[[], object], what: str, deadline_seconds: float = 20) -> None:
        """Poll; while the database is away the answer is no."""
        deadline = time.monotonic() + deadline_seconds
        while True:
            with suppress(Unavailable):
                if condition():
                    return
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {deadline_seconds:g} s: {what}\n{self.tail(*self.processes)}")
            time.sleep(0.03)


def diagnostics(agents: Mapping[str, Mapping[str, object]] | None = None, **team: object) -> Team:
    """The team as it is brought along, without its reviewed agents' schemas; `agents` overrides fields by agent."""
    given = tomllib.loads(files("workers.teams.diagnostics").joinpath("team.toml").read_text())
    for name, fields in (agents or {}).items():
        given["agents"][name] |= fields
    return Team.model_validate({**given, **team})


def fan(layers: int, width: int, steps: Callable[[str], Step], prefix: str = "") -> list[Step]:
    """`layers` times: `width` steps side by side, all needed by one join, which the next layer needs."""
    made: list[Step] = []
    joint: list[str] = []
    for layer in range(layers):
        keys = [f"{prefix}{layer}.{number}" for number in range(width)]
        made += [{"id": key, "needs": joint, **steps(key)} for key in keys]
        joint = [f"{prefix}{layer}.join"]
        made.append({"id": joint[0], "needs": keys, "agent": "echo"})
    return made


def _marked(mark: str) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        with suppress(OSError):
            if name.isdigit() and mark.encode() in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                found.append(int(name))
    return found


def _parent(pid: int) -> int | None:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    return None


def _command_line(pid: int) -> str:
    """Empty for one that has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
