"""Our side: embedded servers, two worker processes serving all roles, and the loops process."""

import os
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from signal import SIGTERM
from urllib.parse import urlsplit
from uuid import UUID

import psycopg

from contracts.errors import OrchestratorError
from contracts.plans import Plan, Step
from contracts.teams import Isolation, Team
from orchestrator import launch
from orchestrator.embedded import EmbeddedPostgres, EmbeddedRedis
from shared_state import migrate, outbox, sweep, tasks, teams, verify
from shared_state.broker.app import make_app, signing_keys
from shared_state.broker.publisher import Publisher
from shared_state.engine import make_engine
from shared_state.outbox import Wakeup
from shared_state.settings import child_environment, load
from shared_state.submitter import Submitter
from shared_state.team_files import read_team
from shared_state.teams_cache import TeamsCache
from tests.benchmarks.databases import make_database
from tests.benchmarks.measure import await_workers, client_port
from tests.benchmarks.workloads import STALL_SECONDS, Stalled, Workload

CHECKOUT = Path(__file__).parents[2]
LEASE_SECONDS = 5.0
TENANT = "default"
DATABASE = "bench"


class Ours:
    """`team` is whose agents run: `bench` in threads, `bench-process` each in a process of its own."""

    name = "ours"

    def __init__(
        self,
        folder: Path,
        postgres: EmbeddedPostgres,
        redis: EmbeddedRedis,
        *,
        workers: int,
        slots: int,
        database: str = DATABASE,
        broker_database: int = 0,
    ) -> None:
        """`database` is made where it is missing; `broker_database` is Redis's number of it."""
        self.team = "bench"
        self.database = database
        self._folder = folder
        self._servers: dict[str, EmbeddedPostgres | EmbeddedRedis] = {"postgres": postgres, "redis": redis}
        settings = load(
            {},
            None,
            {
                "database_url": postgres.url_of(database),
                "broker_url": urlsplit(redis.url)._replace(path=f"/{broker_database}").geturl(),
                "signing_keys": "bench:" + os.urandom(16).hex(),
                "data_dir": str(folder),
                "lease_seconds": LEASE_SECONDS,
                "worker_slots": slots,
            },
        )
        make_database(postgres, database)
        migrate.upgrade(settings.database_url)
        self._engine = make_engine(settings.database_url, pool_size=8)
        self._known = TeamsCache()
        self._app = make_app(settings)
        self._publisher = Publisher(self._app, signing_keys(settings))
        self._submitter = Submitter(self._publish, self._known)
        self._environment = {**os.environ, **child_environment(settings), "PYTHONPATH": str(CHECKOUT)}
        # One transaction for all looking: polling must not count as commits.
        self._eye = psycopg.connect(settings.database_url, prepare_threshold=1)
        self._eye.execute("set idle_in_transaction_session_timeout = 0")
        # Looking is by key, however the table grows meanwhile: it must not be what is measured.
        self._eye.execute("set enable_seqscan = off")
        self._eyes = {client_port(self._eye)}
        team = read_team(Path(__file__).parent)
        teams.apply(self._engine, TENANT, team)
        teams.apply(self._engine, TENANT, _isolated(team))
        self._loops = self._start("loops", "-m", "orchestrator", "loops")
        self._workers = {name: self._start_worker(name) for name in (f"worker{n}" for n in range(workers))}
        await_workers(self._app, workers)

    def submit(self, workload: Workload, count: int) -> list[str]:
        order = {**workload.item.model_dump(), "width": workload.width}
        return self._submit([tasks.Submission(team=self.team, input=order)] * count)

    def submit_plan(self, workload: Workload, steps: int) -> str:
        """A task with a plan brought along: `steps` steps that need nothing."""
        given = workload.item.model_dump()
        plan = Plan(steps=tuple(Step(id=f"s{number}", agent="work", input=given) for number in range(steps)))
        return self._submit([tasks.Submission(team=self.team, plan=plan)])[0]

    def finished(self, ids: Collection[str]) -> set[str]:
        # `offset 0` keeps the condition out of the choice of an index: by key, however many tasks have ended. An array
        # as one text is adapted in a tenth of the time of a list.
        rows = self._eye.execute(
            """select id::text, state from (select * from tasks where id = any(%s::uuid[]) offset 0) t
            where finished_at is not null""",
            ["{" + ",".join(ids) + "}"],
        ).fetchall()
        for task_id, state in rows:
            if state != "succeeded":
                raise RuntimeError(f"task {task_id} of a benchmark has {state}")
        return {task_id for task_id, _ in rows}

    def wait(self, task_id: str) -> None:
        """Until a task has ended. Raises `Stalled` after a minute."""
        deadline = time.monotonic() + STALL_SECONDS
        while not self.finished([task_id]):
            if time.monotonic() > deadline:
                raise Stalled(f"ours: task {task_id} did not end within {STALL_SECONDS:g} s")
            time.sleep(0.01)

    def finish_times(self, task_id: str) -> list[float]:
        """When each step of a task ended, in order, as Unix times."""
        sql = "select extract(epoch from finished_at)::float8 from steps where task_id = %s order by finished_at"
        return [float(row[0]) for row in self._eye.execute(sql, [UUID(task_id)]) if row[0] is not None]

    def components(self) -> Mapping[str, Sequence[int]]:
        servers = {name: [server.pid] for name, server in self._servers.items() if server.pid is not None}
        return {
            "workers": [worker.pid for worker in self._workers.values()],
            **servers,
            "loops": [self._loops.pid],
        }

    def eyes(self) -> Set[int]:
        return self._eyes

    def kill_worker(self) -> str:
        """SIGKILL one worker process; its name."""
        name = next(iter(self._workers))
        self._workers[name].kill()
        self._workers[name].wait()
        return name

    def running(self, name: str) -> int:
        """Attempts that a worker holds by the record."""
        sql = "select count(*) from attempts where worker = %s and state = 'running'"
        row = self._eye.execute(sql, [name]).fetchone()
        return int(row[0]) if row else 0

    def supervise(self, name: str) -> None:
        """What a supervisor does that saw the death: expire the leases at once."""
        outbox.publish(self._publisher, sweep.expire_worker(self._engine, name))

    def restore_workers(self) -> None:
        """Start those again that were killed, and wait until they take part."""
        for name, worker in self._workers.items():
            if worker.poll() is not None:
                self._workers[name] = self._start_worker(name)
        await_workers(self._app, len(self._workers))

    def violations(self) -> list[str]:
        """Invariants that do not hold, as text."""
        return [f"{found.invariant} {found.meaning}: {found.text}" for found in verify.violations(self._engine)]

    def stop(self) -> None:
        processes = [*self._workers.values(), self._loops]
        for process in processes:
            process.send_signal(SIGTERM)
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
        self._eye.close()
        self._publisher.close()
        self._engine.dispose()

    def _publish(self, wakeups: Sequence[Wakeup], together: int = 1) -> None:
        outbox.publish(self._publisher, wakeups, together=min(together, outbox.TOGETHER))

    def _submit(self, submissions: Sequence[tasks.Submission]) -> list[str]:
        if len(submissions) == 1:
            return [str(self._submitter.submit(self._engine, TENANT, submissions[0]).task_id)]
        submitted = tasks.submit(self._engine, TENANT, submissions, teams=self._known)
        self._publish(submitted.wakeups)
        ids = []
        for result in submitted.results:
            if isinstance(result, OrchestratorError):
                raise result
            ids.append(str(result.task_id))
        return ids

    def _start_worker(self, name: str) -> subprocess.Popen[bytes]:
        return self._start(name, "-m", "workers", ORCHESTRATOR_WORKER_NAME=name)

    def _start(self, name: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                launch.command([sys.executable, *arguments]),
                env={**self._environment, **environment},
                cwd=CHECKOUT,
                stdout=log,
                stderr=log,
            )


def _isolated(team: Team) -> Team:
    """The same agents, each attempt in a process of its own."""
    agents = {name: agent.model_copy(update={"isolation": Isolation.PROCESS}) for name, agent in team.agents.items()}
    return team.model_copy(update={"name": "bench-process", "agents": agents})
