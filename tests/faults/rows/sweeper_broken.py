"""F57: the sweeper does nothing and nobody is told; the invariants tell."""

import time

from shared_state.verify import violations
from tests.faults.row import Row
from tests.faults.scene import LOOPS, SWEEP_SECONDS, Scene

ALERT_SECONDS = 60.0
FOR_EVER = 3600.0


def break_sweeper(scene: Scene) -> None:
    """Its loops run as ever, but the sweeper waits for an hour; a worker is killed and nobody sees it die."""
    loops = scene.staff.members[LOOPS]
    scene.staff.supervised = False
    victim = scene.staff.workers()[0]
    # The one pass with which it begins must not be the one that recovers.
    scene.until(lambda: "loops.started" in scene.staff.log(loops).read_text(), "the loops have begun", 20)
    scene.pause(2)
    scene.until(lambda: scene.running(victim.name), "the victim holds steps", 20)
    scene.staff.dismiss(victim)
    scene.kill(victim)
    began = time.monotonic()
    scene.until(lambda: _alarms(scene), "an invariant tells of it", ALERT_SECONDS)
    scene.facts["told after"] = f"{time.monotonic() - began:.0f} s, by {', '.join(sorted(_alarms(scene)))}"
    scene.expect("I27" in _alarms(scene), f"told by {_alarms(scene)}, not by I27")
    loops.settings = loops.settings.model_copy(update={"sweep_seconds": SWEEP_SECONDS})
    scene.kill(loops)
    scene.until(lambda: not _alarms(scene), "a sweeper that works puts it right", 30)


def _alarms(scene: Scene) -> set[str]:
    return {each.invariant for each in violations(scene.engine) if each.kind == "liveness"}


ROWS = (
    Row(
        "F57",
        "the sweeper does nothing; a worker dies unseen",
        "I27 tells within 60 s",
        break_sweeper,
        seconds=25,
        shortest=25,
        workers=2,
        rate=2,
        settings={"sweep_seconds": FOR_EVER},
        nap_seconds=(0.5, 1.5),
    ),
)
