"""F01: executors are killed in the middle of steps, again and again."""

from tests.faults.row import Row
from tests.faults.scene import Scene

SEEN_MEAN_SECONDS, UNSEEN_MEAN_SECONDS = 0.5, 1.2
"""Between two blows; each fells one to three workers."""


def kill_workers(scene: Scene) -> None:
    _strike(scene, SEEN_MEAN_SECONDS)


def kill_workers_unseen(scene: Scene) -> None:
    scene.staff.supervised = False
    _strike(scene, UNSEEN_MEAN_SECONDS)


def _strike(scene: Scene, mean_seconds: float) -> None:
    while not scene.over():
        scene.pause_randomly(mean_seconds)
        scene.kill_some(scene.chance.randint(1, 3))


ROWS = (
    Row(
        "F01",
        "kill -9 of workers in the middle of steps; a supervisor sees each death",
        "interrupted steps run again within 2 s (p99)",
        kill_workers,
        seconds=260,
        workers=8,
        slots=8,
        nap_seconds=(0.1, 0.6),
        seen_target=2.0,
    ),
    Row(
        "F01-unseen",
        "kill -9 of workers in the middle of steps; only lapsed leases tell",
        "interrupted steps run again within lease + sweep + 2 s = 9 s (p99)",
        kill_workers_unseen,
        seconds=200,
        workers=8,
        slots=8,
        nap_seconds=(0.1, 0.6),
        unseen_target=9.0,
    ),
)
