"""F36: workers whose wall clock is an hour or a day off."""

from tests.faults.row import Row
from tests.faults.scene import Scene
from tests.faults.staff import Member

OFFSETS = (3600, -3600, 86_400)


def shift_clocks(scene: Scene) -> None:
    """Each started from nothing with its own offset; nothing dies, so no lease may lapse."""
    for number, offset in enumerate(OFFSETS):
        launcher = ("tests.faults.shifted", str(offset))
        scene.staff.hire(Member(f"shifted{number}", ("workers",), scene.settings, launcher=launcher))
        scene.injected("workers with a wrong clock")
    scene.await_workers()
    scene.pause(scene.left_seconds())
    scene.until(lambda: _done(scene) > 0, "workers with a wrong clock do something", 30)
    stolen = scene.query("select count(*) as n from attempts where state = 'expired'")[0]["n"]
    scene.expect(not stolen, f"{stolen} leases were taken although their workers lived")
    scene.facts["attempts by workers with a wrong clock"] = str(_done(scene))


def _done(scene: Scene) -> int:
    sql = "select count(*) as n from attempts where starts_with(worker, 'shifted') and state = 'succeeded'"
    return int(scene.query(sql)[0]["n"])


ROWS = (
    Row(
        "F36",
        "workers whose clock (time.time) is an hour or a day off",
        "no lease is taken from a living worker",
        shift_clocks,
        shortest=12,
        workers=1,
    ),
)
