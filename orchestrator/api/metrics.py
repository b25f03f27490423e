"""`GET /metrics`: the whole installation in figures, as Prometheus text, for whoever shows the `metrics_token`.

They are of all tenants, so that no tenant's key is enough. However many ask, they are read at most once a second, and
never for more than a fiftieth of the time. What a process counts of itself is on that process's `metrics_listen`.
"""

import time
from collections import Counter as Tally
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Engine

from contracts.errors import CODES, Unavailable
from contracts.states import TaskState
from contracts.topology import KIND_OF_ROLE, QUEUE_OF_ROLE
from orchestrator.api.vitals import Sampled
from orchestrator.refusals import Unauthenticated
from shared_state.metrics import OTHER, Names, code_label, may_read
from shared_state.settings import Settings
from shared_state.views import metrics as views
from shared_state.views.metrics import InstallationFigures

ROLE_OF_KIND = {kind.value: role.value for role, kind in KIND_OF_ROLE.items()}
STEP_STATES = ("ready", "running", "backoff", "waiting")
WORKER_STATES = ("running", "draining", "silent")


class InstallationMetrics:
    """Safe to call from several threads."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._token = settings.metrics_token
        self._figures = Sampled(lambda: views.read(engine), time.monotonic)

    def require_reader(self, authorization: str | None) -> None:
        """Raises `Unauthenticated`."""
        if self._token is None:
            raise Unauthenticated("nobody may read the metrics here: set metrics_token where the API runs")
        if not may_read(self._token, authorization):
            raise Unauthenticated("send `Authorization: Bearer TOKEN` with the metrics_token of this installation")

    def text(self) -> bytes:
        """While Postgres is away it says just that."""
        try:
            figures: InstallationFigures | None = self._figures.value()
        except Unavailable:
            figures = None
        registry = CollectorRegistry()
        registry.register(_Installation(figures))
        return generate_latest(registry)


class _Installation(Collector):
    def __init__(self, figures: InstallationFigures | None) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        yield _one("orchestrator_database_up", "Whether Postgres answers the API.", self._figures is not None)
        if self._figures is not None:
            yield from _queues(self._figures)
            yield from _steps(self._figures)
            yield from _overdue(self._figures)
            yield from _dead_letters(self._figures)
            yield from _workers(self._figures)
            yield from _database(self._figures)


def _queues(figures: InstallationFigures) -> Iterator[Metric]:
    depth = _family("queue_depth", "Ready steps in the queue, sent for or not.", "queue", "role")
    published = _family("queue_published", "Those of them whose message is out.", "queue", "role")
    oldest = _family("queue_oldest_seconds", "How long the oldest of them has been ready.", "queue", "role")
    known = {(queue, role.value) for role, queue in QUEUE_OF_ROLE.items()}
    rows = {(row["queue"], ROLE_OF_KIND[row["kind"]]): row for row in figures.queues}
    for labels in sorted(known | rows.keys()):
        row = rows.get(labels, {"depth": 0, "published": 0, "oldest_seconds": 0.0})
        depth.add_metric(labels, row["depth"])
        published.add_metric(labels, row["published"])
        oldest.add_metric(labels, row["oldest_seconds"])
    return iter((depth, published, oldest))


def _steps(figures: InstallationFigures) -> Iterator[Metric]:
    steps = _family("steps", "Steps that are ready, run, back off or wait for a person.", "agent", "state")
    oldest = _family("steps_oldest_seconds", "How long the oldest of them has been so.", "agent", "state")
    agents = Names()
    counts: dict[tuple[str, str], int] = {}
    ages: dict[tuple[str, str], float] = {}
    for row in sorted(figures.steps, key=lambda row: str(row["agent"])):
        labels = (agents.label(row["agent"]), row["state"])
        counts[labels] = counts.get(labels, 0) + row["count"]
        ages[labels] = max(ages.get(labels, 0.0), row["oldest_seconds"] or 0.0)
    for agent in sorted({agent for agent, _ in counts}):
        for state in STEP_STATES:
            steps.add_metric([agent, state], counts.get((agent, state), 0))
            oldest.add_metric([agent, state], ages.get((agent, state), 0.0))
    yield from (steps, oldest)
    tasks = _family("tasks", "Tasks that have not ended.", "state")
    open_tasks = {row["state"]: row["count"] for row in figures.tasks}
    for state in (TaskState.PLANNING, TaskState.RUNNING, TaskState.WAITING, TaskState.CANCELLING):
        tasks.add_metric([state.value], open_tasks.get(state, 0))
    yield tasks


def _overdue(figures: InstallationFigures) -> Iterator[Metric]:
    overdue = _family(
        "loop_overdue_seconds",
        "How long the loop owes something: a recovery, a publishing, the end of a backoff.",
        "loop",
    )
    overdue.add_metric(["sweeper"], figures.overdue["lapsed_seconds"] or 0.0)
    overdue.add_metric(["stager"], figures.overdue["due_seconds"] or 0.0)
    # Of a queue that has enough out the rest waits rightly.
    out = Tally[str]()
    for row in figures.queues:
        out[row["queue"]] += row["published"]
    idle = [row["unpublished_seconds"] or 0.0 for row in figures.queues if not out[row["queue"]]]
    overdue.add_metric(["relay"], max(idle, default=0.0))
    yield overdue


def _dead_letters(figures: InstallationFigures) -> Iterator[Metric]:
    letters = _family("dead_letters_open", "Open dead letters.", "reason")
    oldest = _family("dead_letters_oldest_seconds", "Age of the oldest open dead letter.", "reason")
    newest = _family("dead_letters_newest_seconds", "Age of the newest open dead letter.", "reason")
    counts = dict.fromkeys((*CODES, f"agent.{OTHER}"), 0)
    ages: dict[str, tuple[float, float]] = {}
    for row in figures.dead_letters:
        reason = code_label(row["reason"])
        counts[reason] += row["count"]
        first, last = ages.get(reason, (0.0, float("inf")))
        ages[reason] = (max(first, row["oldest_seconds"]), min(last, row["newest_seconds"]))
    for reason, count in counts.items():
        letters.add_metric([reason], count)
    for reason, (first, last) in ages.items():
        oldest.add_metric([reason], first)
        newest.add_metric([reason], last)
    return iter((letters, oldest, newest))


def _workers(figures: InstallationFigures) -> Iterator[Metric]:
    workers = _family("workers", "Worker processes; `silent` are those that have stopped reporting.", "state")
    states = Tally(row["state"] for row in figures.workers)
    for state in WORKER_STATES:
        workers.add_metric([state], states[state])
    yield workers
    serving = [row for row in figures.workers if row["state"] == "running"]
    yield _one("orchestrator_slots", "Slots of the running workers.", sum(row["slots"] for row in serving))
    yield _one("orchestrator_slots_busy", "Those that run a step.", sum(row["busy"] for row in serving))
    count = _family("queue_workers", "Running workers that serve the queue; one may serve several.", "queue")
    free = _family("queue_slots_free", "Free slots of the workers that serve the queue.", "queue")
    queues = {*QUEUE_OF_ROLE.values(), *(row["queue"] for row in figures.queues)}
    for queue in sorted(queues.union(*(row["queues"] for row in serving))):
        mine = [row for row in serving if queue in row["queues"]]
        count.add_metric([queue], len(mine))
        free.add_metric([queue], sum(max(0, row["slots"] - row["busy"]) for row in mine))
    yield from (count, free)


def _database(figures: InstallationFigures) -> Iterator[Metric]:
    row = figures.database
    yield _one("orchestrator_database_connections", "Connections to the server, of everybody.", row["connections"])
    yield _one("orchestrator_database_connections_limit", "Its max_connections.", row["connections_limit"])
    yield _one(
        "orchestrator_database_oldest_transaction_seconds",
        "Age of the oldest transaction: it holds back events and vacuum.",
        row["transaction_seconds"] or 0.0,
    )
    yield _one("orchestrator_database_size_bytes", "Size of the database on its disk.", row["size_bytes"])


def _family(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"orchestrator_{name}", text, labels=labels)


def _one(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
