"""F34, F35: a slow, cut and half-open network; a worker that the broker reaches and Postgres does not."""

import time
from typing import Any

from tests.faults.load import chain
from tests.faults.row import Row
from tests.faults.scene import LEASE_SECONDS, Scene
from tests.faults.staff import Member

SLACK_SECONDS = 0.5
"""Between a tick of a body and the death of its process."""


def slow_cut_half_open(scene: Scene) -> None:
    proxies = [scene.proxies[name] for name in ("postgres", "redis")]
    whole = scene.left_seconds()
    for proxy in proxies:
        proxy.delay_seconds, proxy.jitter_seconds = 0.1, 0.1
    scene.injected("seconds of 200 to 400 ms round trips", round(whole / 3))
    scene.pause(whole / 3)
    expired = scene.query("select count(*) as n from attempts where state = 'expired'")[0]["n"]
    scene.expect(not expired, f"{expired} leases lapsed because the network was slow")
    for proxy in proxies:
        proxy.delay_seconds, proxy.jitter_seconds = 0.0, 0.02
    while not scene.over():
        proxy = scene.chance.choice(proxies)
        if scene.chance.random() < 0.5:
            scene.injected("connections cut", proxy.cut())
        else:
            scene.injected("times half-open")
            proxy.hold()
            scene.pause(scene.chance.uniform(1, 6))
            proxy.release()
        scene.pause(scene.chance.uniform(0.5, 2))


def partition(scene: Scene) -> None:
    """One worker's way to Postgres is blocked while it runs bodies that say all the time that they run."""
    while not scene.over():
        proxy = scene.add_proxy("lonely", scene.url)
        own = scene.settings.model_copy(update={"database_url": proxy.url(scene.url)})
        member = scene.staff.hire(Member(f"lonely{scene.counts['partitions']}", ("workers",), own))
        scene.await_workers()
        name = member.name
        held: list[dict[str, Any]] = []
        for _ in range(20):
            scene.load.put(lambda given: chain(given, length=1, agent="work_apart"), nap_seconds=9.0, tick_seconds=0.1)
            held = _bodies_of(scene, name)
            if len(held) >= 2:
                break
        else:
            raise AssertionError("the worker has nothing to do")
        proxy.hold()
        cut_at = time.time()
        scene.injected("partitions")
        scene.injected("bodies cut off", len(held))
        scene.until(lambda cut_at=cut_at: time.time() > cut_at + 2 * LEASE_SECONDS, "two leases have passed", 30)
        ticks = scene.ledger.last_ticks()
        lived = [ticks.get((row["task"], row["key"], row["attempt"]), cut_at) - cut_at for row in held]
        longest = max(lived, default=0.0)
        scene.facts["bodies went on at most"] = f"{max(longest, 0):.1f} s of a lease of {LEASE_SECONDS:g} s"
        scene.expect(longest <= LEASE_SECONDS + SLACK_SECONDS, f"a body went on {longest:.1f} s after the partition")
        proxy.release()
        scene.until(lambda name=name: scene.running(name) == 0, "nothing is held by it", 20)
        scene.staff.dismiss(member)
        scene.staff.kill(member)


def _bodies_of(scene: Scene, worker: str) -> list[dict[str, Any]]:
    """The ticking attempts that it runs, once their bodies have begun."""
    scene.pause(0.5)
    begun = scene.ledger.last_ticks()
    rows = scene.query(
        """select s.task_id::text as task, s.key, a.attempt from attempts a join steps s on s.id = a.step_id
        where a.worker = %(name)s and a.state = 'running' and a.agent = 'work_apart'""",
        name=worker,
    )
    return [row for row in rows if (row["task"], row["key"], row["attempt"]) in begun]


ROWS = (
    Row(
        "F34",
        "round trips of 200 to 400 ms to Postgres and Redis; cuts; half-open connections",
        "no lease lapses because of delay alone; every task ends",
        slow_cut_half_open,
        seconds=45,
        shortest=15,
        proxied=frozenset({"postgres", "redis"}),
        rest_seconds=120,
        rate=3,
    ),
    Row(
        "F35",
        "a worker's way to Postgres is blocked, its way to Redis is not",
        "its bodies end within the lease",
        partition,
        seconds=40,
        workers=2,
        slots=12,
        rate=2,
    ),
)
