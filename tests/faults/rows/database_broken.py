"""F26 to F29: connections are ended, Postgres is killed, frozen, or its answer to COMMIT is lost."""

import time

from tests.faults.result import percentile
from tests.faults.row import Row
from tests.faults.scene import RESTARTS, Scene

FROZEN_SECONDS = 10.0
WORKER_CONNECTIONS, LOOPS_CONNECTIONS = 6, 6
"""What a process may open: its pool, the batcher's own or the listener's."""


def end_connections(scene: Scene) -> None:
    while not scene.over():
        scene.pause_randomly(0.4)
        scene.massacre(scene.chance.choice((0.2, 0.5, 1.0)))


def kill_postgres(scene: Scene) -> None:
    outages: list[float] = []
    while not scene.over():
        began = time.monotonic()
        scene.servers.kill_postgres()
        scene.servers.postgres.start()
        restarted = time.monotonic()
        commits = _commits(scene)
        scene.until(lambda commits=commits: _commits(scene) > commits, "work goes on", 30)
        outages.append(time.monotonic() - restarted)
        scene.injected(RESTARTS)
        scene.facts["last restart took"] = f"{restarted - began:.1f} s"
        scene.pause(scene.chance.uniform(0.2, 2))
    p99 = percentile(outages, 0.99) or 0.0
    scene.facts["commits go on after a restart, p99"] = f"{p99:.1f} s"
    scene.expect(p99 <= 5, f"commits go on only {p99:.1f} s after a restart (p99)")


def freeze_postgres(scene: Scene) -> None:
    allowed = WORKER_CONNECTIONS * scene.row.workers + LOOPS_CONNECTIONS
    most = 0
    while not scene.over():
        with scene.servers.frozen("postgres"):
            scene.injected("seconds of a frozen database", round(min(FROZEN_SECONDS, scene.left_seconds())))
            scene.pause(FROZEN_SECONDS)
        scene.until(lambda: bool(scene.query("select 1")), "the database answers again", 30)
        most = max(most, _connections(scene))
        scene.pause(4)
        most = max(most, _connections(scene))
    scene.facts["connections at most"] = f"{most} of {allowed} allowed"
    scene.expect(most <= allowed, f"{most} connections were open, {allowed} are allowed")


def lose_commit_replies(scene: Scene) -> None:
    proxy = scene.proxies["postgres"]
    proxy.lose_share = 0.25
    while not scene.over():
        scene.pause(0.5)
    proxy.lose_share = 0.0
    scene.injected("replies to COMMIT lost", proxy.lost_replies)
    orphans = scene.query(
        "select id from tasks t where not exists (select from idempotency_keys k where k.task_id = t.id)"
    )
    scene.expect(not orphans, f"{len(orphans)} tasks were made beside those of the idempotency keys")
    scene.facts["submissions sent again"] = str(scene.load.refusals)


def _commits(scene: Scene) -> int:
    return int(scene.query("select count(*) as n from outputs")[0]["n"])


def _connections(scene: Scene) -> int:
    sql = """select count(*) as n from pg_stat_activity where datname = current_database()
        and application_name ~ '^(worker|batcher|orchestrator)'"""
    return int(scene.query(sql)[0]["n"])


ROWS = (
    Row(
        "F26",
        "pg_terminate_backend of a fifth, half or all connections",
        "every task ends",
        end_connections,
        seconds=60,
    ),
    Row(
        "F27",
        "kill -9 of Postgres with all its processes",
        "nothing acknowledged is lost; commits go on within 5 s of the restart (p99)",
        kill_postgres,
        seconds=40,
    ),
    Row(
        "F28",
        "SIGSTOP of Postgres for 10 s at a time",
        "no connections beyond the pools",
        freeze_postgres,
        seconds=40,
        shortest=12,
        rest_seconds=90,
    ),
    Row(
        "F29",
        "the reply to COMMIT is lost, with its connection",
        "one task for each idempotency key",
        lose_commit_replies,
        seconds=50,
        proxied=frozenset({"postgres"}),
        open_limit=120,
    ),
)
