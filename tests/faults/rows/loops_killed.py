"""F07, F08: the loops process dies again and again; or there are two, and either dies."""

from tests.faults.load import chain, wide
from tests.faults.result import percentile
from tests.faults.row import Row
from tests.faults.scene import LOOPS, Scene

WAKE_TARGET_SECONDS = 5.0


def kill_loops(scene: Scene) -> None:
    while not scene.over():
        scene.pause_randomly(2.0)
        scene.kill(scene.staff.members[LOOPS])
    scene.heal()
    scene.come_to_rest()
    delays = [
        row["seconds"]
        for row in scene.query(
            """select extract(epoch from a.started_at - s.ready_at)::float8 as seconds
            from steps s join attempts a on a.step_id = s.id where s.ready_at is not null and s.attempt_count = 1"""
        )
    ]
    p99 = percentile(delays, 0.99) or 0.0
    scene.facts["ready to running p99"] = f"{p99:.2f} s"
    scene.expect(p99 <= WAKE_TARGET_SECONDS, f"steps wait {p99:.2f} s (p99) until they run")


def two_sweepers(scene: Scene) -> None:
    """Workers die unseen meanwhile, so that there is something to sweep."""
    scene.staff.supervised = False
    scene.hire_loops("loops-too")
    while not scene.over():
        scene.pause_randomly(1.0)
        scene.kill_some(1)
        if scene.chance.random() < 0.4:
            scene.kill(scene.staff.members[scene.chance.choice((LOOPS, "loops-too"))])
    twice = scene.query(
        "select step_id from events where type = 'step.expired' group by step_id, epoch having count(*) > 1"
    )
    scene.expect(not twice, f"{len(twice)} lapsed leases were swept twice")


ROWS = (
    Row(
        "F07",
        "kill -9 of relay, sweeper and stager, again and again",
        "ready steps run within 5 s (p99)",
        kill_loops,
        shapes=(wide, chain),
        rate=2,
    ),
    Row(
        "F08",
        "two loops processes, either killed at times; workers killed unseen",
        "no lease is swept twice",
        two_sweepers,
        workers=6,
        nap_seconds=(0.1, 0.6),
    ),
)
