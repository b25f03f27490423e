"""What a row works on: a house of real processes under load, watched, with its own database."""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import psycopg
import redis
from psycopg.rows import dict_row

from contracts.errors import OrchestratorError
from orchestrator.embedded.folder import free_port
from shared_state import keys, outbox, sweep, teams
from shared_state.broker.app import make_app, signing_keys
from shared_state.broker.publisher import Publisher
from shared_state.engine import make_engine
from shared_state.settings import load as load_settings
from tests.faults import agents, tally
from tests.faults.doors import DatabaseDoor, HttpDoor
from tests.faults.ledger import Ledger
from tests.faults.load import Load, Make, Ordered
from tests.faults.looks import Looks
from tests.faults.proxy import Proxy
from tests.faults.servers import Servers
from tests.faults.staff import Member, Staff

if TYPE_CHECKING:
    from tests.faults.row import Row

LEASE_SECONDS, SWEEP_SECONDS = 5.0, 2.0
SETTINGS = {
    "signing_keys": "faults:a secret of the fault harness",
    "lease_seconds": LEASE_SECONDS,
    "sweep_seconds": SWEEP_SECONDS,
    "republish_seconds": 2.0,
}
KILLS, WIPES, MASSACRES, RESTARTS = "worker kills", "broker wipes", "connection massacres", "postgres restarts"
"""Names of faults that are added up over all rows."""
LOOPS, API = "loops", "api"


class Scene:
    """Made, used and left in the main thread. `seconds` is how long the row injects."""

    def __init__(self, row: "Row", servers: Servers, folder: Path, seed: int, seconds: float) -> None:
        self.row = row
        self.seed = seed
        self.chance = random.Random(seed)
        self.servers = servers
        self.counts: Counter[str] = Counter()
        """Injected faults by name."""
        self.facts: dict[str, str] = {}
        """What a row measured, for people."""
        self.problems: list[str] = []
        """What did not hold."""
        self.proxies: dict[str, Proxy] = {}
        self.database = f"row_{seed % 10**9}_{time.monotonic_ns() % 10**9}"
        self.folder = folder
        self.ledger = Ledger(folder / "ledger.jsonl")
        self._seconds = seconds
        self._until = 0.0
        self._stack = ExitStack()

    # --- life

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _open(self) -> None:
        self.servers.start()
        self.servers.wipe()
        self.url = self.servers.make_database(self.database)
        self._stack.callback(self._drop)
        self._make_settings()
        self.engine = make_engine(self.url, pool_size=6, application="faults")
        self._stack.callback(self.engine.dispose)
        teams.apply(self.engine, "default", agents.team())
        self.publisher = Publisher(make_app(self.direct), signing_keys(self.direct))
        self._stack.callback(self.publisher.close)
        self.staff = Staff(self.folder, self._expire, self.row.ablation)
        self._stack.callback(self.staff.close)
        self.hire_loops()
        self._hire_workers()
        self.door = self._open_door()
        self.looks = Looks(self.engine)
        self.load = Load(
            self.door,
            partial(tally.update_states, self.url),
            str(self.ledger.path),
            self.chance,
            rate=self.row.rate,
            limit=self.row.open_limit,
            shapes=self.row.shapes,
            nap_seconds=self.row.nap_seconds,
        )
        self.await_workers()
        self.looks.start()
        self._stack.callback(self.looks.stop)
        if self.row.rate:
            self.load.start()
            self._stack.callback(self.load.stop, 1.0)
        self.go_on(self._seconds)

    def _make_settings(self) -> None:
        """`direct` is for the test itself; `settings` for the product, whose way may lead through proxies."""
        urls = {"postgres": self.url, "redis": self.servers.redis.url}
        common = {**SETTINGS, "data_dir": str(self.folder), "worker_slots": self.row.slots, **self.row.settings}
        self.direct = load_settings({}, None, {**common, "database_url": urls["postgres"], "broker_url": urls["redis"]})
        through = {name: self._proxied(name, url) if name in self.row.proxied else url for name, url in urls.items()}
        self.settings = self.direct.model_copy(
            update={"database_url": through["postgres"], "broker_url": through["redis"]}
        )

    def _proxied(self, name: str, url: str) -> str:
        return self.add_proxy(name, url).url(url)

    def add_proxy(self, name: str, url: str) -> Proxy:
        """One more way to the server at `url`, closed at the end."""
        parts = urlsplit(url)
        proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 0, self.chance)
        self._stack.callback(proxy.close)
        self.proxies[name] = proxy
        return proxy

    def _open_door(self) -> DatabaseDoor | HttpDoor:
        if not self.row.api:
            engine = make_engine(self.settings.database_url, pool_size=2, application="faults load")
            self._stack.callback(engine.dispose)
            publisher = Publisher(make_app(self.settings), signing_keys(self.settings))
            self._stack.callback(publisher.close)
            return DatabaseDoor(engine, publisher)
        port = free_port()
        self.staff.hire(Member(API, ("orchestrator", "api"), self.settings.model_copy(update={"listen_port": port})))
        key = keys.create(self.engine, "default", "faults", "admin")
        door = HttpDoor(f"http://127.0.0.1:{port}", key)
        self._stack.callback(door.close)
        self.until(lambda: door.ready() == 200, "the API answers", 30)
        return door

    def hire_loops(self, slot: str = LOOPS) -> Member:
        return self.staff.hire(Member(slot, ("orchestrator", "loops"), self.settings))

    def _hire_workers(self) -> None:
        for number in range(self.row.workers):
            roles = self.row.roles[number % len(self.row.roles)]
            self.staff.hire(Member(f"w{number}", ("workers", *roles), self.settings))

    def await_workers(self, seconds: float = 30.0) -> None:
        """Until every worker that is up has reported itself."""

        def all_report() -> bool:
            up = {member.name for member in self.staff.workers()}
            told = {row["name"] for row in self.query("select name from workers where state = 'running'")}
            return bool(up) and up <= told

        self.until(all_report, "all workers report", seconds)

    def _expire(self, worker: str) -> None:
        """What `orchestrator dev` does when it reaps a dead worker."""
        outbox.publish(self.publisher, sweep.expire_worker(self.engine, worker))

    def _drop(self) -> None:
        self.servers.start()
        self.servers.drop_database(self.database)

    # --- what rows use

    def go_on(self, seconds: float) -> None:
        """Inject for so long from now."""
        self._until = time.monotonic() + seconds

    def over(self) -> bool:
        """Whether the time to inject is over."""
        return time.monotonic() >= self._until

    def left_seconds(self) -> float:
        return max(0.0, self._until - time.monotonic())

    def pause(self, seconds: float) -> None:
        """Let the house work for a while; not beyond the end of the row's time."""
        time.sleep(min(seconds, self.left_seconds()))

    def pause_randomly(self, mean_seconds: float) -> None:
        """As long as between two events of a Poisson process, but at most five times the mean."""
        self.pause(min(self.chance.expovariate(1 / mean_seconds), 5 * mean_seconds))

    def injected(self, fault: str, count: int = 1) -> None:
        self.counts[fault] += count

    def problem(self, text: str) -> None:
        if text not in self.problems:
            self.problems.append(text)

    def expect(self, holds: bool, text: str) -> None:
        """`text` says what does not hold otherwise."""
        if not holds:
            self.problem(text)

    def kill(self, member: Member) -> bool:
        """kill -9 a process of the staff, counted if it is a worker's or under its own name."""
        killed = self.staff.kill(member)
        if killed:
            self.injected(KILLS if member.is_worker else f"{member.slot} kills")
        return killed

    def kill_some(self, count: int = 1) -> int:
        """kill -9 up to `count` workers chosen by chance, at once; how many."""
        up = [member for member in self.staff.workers() if not member.spared]
        return sum(self.kill(member) for member in self.chance.sample(up, min(count, len(up))))

    def wipe(self) -> None:
        self.servers.wipe()
        self.injected(WIPES)

    def massacre(self, share: float = 1.0) -> None:
        cut = self.servers.massacre(self.database, share)
        self.injected(MASSACRES)
        self.injected("connections cut", cut)

    def submit_and_wait(self, make: Make, *, seconds: float = 30.0, **given: Any) -> Ordered:
        """One task of its own, until it has ended; its order."""
        order = self.load.put(make, **given)
        self.until(lambda: self.state(order) is not None, f"task {order.task_id} ends", seconds)
        return order

    def query(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        """Straight to the database, with plans for whole tables."""
        with psycopg.connect(self.url, connect_timeout=5, autocommit=True, row_factory=dict_row) as connection:
            return connection.execute(sql, parameters).fetchall()

    def running(self, worker: str) -> int:
        """How many attempts a worker holds by the record."""
        sql = "select count(*) as n from attempts where worker = %(worker)s and state = 'running'"
        return int(self.query(sql, worker=worker)[0]["n"])

    def until(self, condition: Callable[[], object], what: str, seconds: float) -> None:
        """Poll; while a server is away the answer is no. Raises `AssertionError` when it does not come true in time."""
        deadline = time.monotonic() + seconds
        while True:
            with suppress(OrchestratorError, psycopg.Error, redis.RedisError):
                if condition():
                    return
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:g} s: {what}")
            time.sleep(0.05)

    # --- the end

    def heal(self) -> None:
        """Everything that was broken works again: servers, proxies, frozen and missing processes."""
        for proxy in self.proxies.values():
            proxy.heal()
        self.servers.start()
        for member in list(self.staff.members.values()):
            self.staff.signal(member, signal.SIGCONT)
            if member.wanted:
                self.staff.recall(member)

    def come_to_rest(self) -> float:
        """No new tasks; wait until all that were accepted have ended. How long that took."""
        began = time.monotonic()
        self.load.stop()
        orders = self.load.accepted()

        def all_ended() -> bool:
            tally.update_states(self.url, orders)
            return all(order.state is not None for order in orders)

        with suppress(AssertionError):  # what has not ended is counted as lost
            self.until(all_ended, "all tasks end", self.row.rest_seconds)
        return time.monotonic() - began

    def state(self, order: Ordered) -> str | None:
        """How a task ended; null while it has not."""
        tally.update_states(self.url, [order])
        return order.state
