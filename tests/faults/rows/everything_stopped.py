"""F10: all workers and the loops are killed at once; then everything is started from cold."""

from tests.faults.row import Row
from tests.faults.scene import LOOPS, Scene


def stop_everything(scene: Scene) -> None:
    scene.staff.supervised = False
    while not scene.over():
        members = [*scene.staff.workers(), scene.staff.members[LOOPS]]
        for member in members:
            scene.staff.dismiss(member)
            member.through_exec = True  # as a person starts them
        for member in members:
            scene.kill(member)
        for member in members:
            scene.staff.wait_down(member)
        scene.injected("total outages")
        scene.pause(scene.chance.uniform(0.5, 2.5))
        for member in members:
            scene.staff.recall(member)
        scene.await_workers()
        scene.pause(scene.chance.uniform(2, 6))


ROWS = (
    Row(
        "F10",
        "kill -9 of all workers and loops at once, cold restart",
        "the whole backlog is done",
        stop_everything,
        seconds=40,
        shortest=10,
        workers=4,
    ),
)
