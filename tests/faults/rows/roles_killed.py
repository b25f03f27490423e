"""F05, F06: planners die while they plan, reviewers while they review."""

from tests.faults.load import planned, reviewed
from tests.faults.row import Row
from tests.faults.scene import Scene

ROLES = (("planner",), ("planner",), ("reviewer",), ("reviewer",), ("executor",))


def kill_planners(scene: Scene) -> None:
    _kill_slots(scene, ("w0", "w1"))
    scene.load.stop()
    scene.heal()
    scene.come_to_rest()
    wrong = scene.query(
        """select t.id, count(*) as n from tasks t join steps s on s.task_id = t.id
        where t.planned_at is not null group by t.id having count(*) <> 5"""
    )
    scene.expect(not wrong, f"{len(wrong)} tasks have half a plan, or two")


def kill_reviewers(scene: Scene) -> None:
    _kill_slots(scene, ("w2", "w3"))
    scene.heal()
    scene.come_to_rest()
    released = scene.query(
        """select s.id from steps s join outputs o on o.step_id = s.id where s.reviewer is not null
        and not exists (select from attempts a
            where a.step_id = s.id and a.role = 'reviewer' and a.state = 'succeeded')"""
    )
    scene.expect(not released, f"{len(released)} outputs were released without a review")
    unread = scene.ledger.released_unreviewed()
    scene.expect(not unread, f"{len(unread)} outputs were read by others before anybody had reviewed them")


def _kill_slots(scene: Scene, slots: tuple[str, ...]) -> None:
    while not scene.over():
        scene.pause_randomly(0.6)
        scene.kill(scene.staff.members[scene.chance.choice(slots)])


ROWS = (
    Row(
        "F05",
        "kill -9 of planners while they plan",
        "no half plan and none twice",
        kill_planners,
        workers=len(ROLES),
        roles=ROLES,
        shapes=(planned,),
        nap_seconds=(0.05, 0.4),
    ),
    Row(
        "F06",
        "kill -9 of reviewers while they review",
        "no output is released without a review",
        kill_reviewers,
        workers=len(ROLES),
        roles=ROLES,
        shapes=(planned, reviewed),
        nap_seconds=(0.05, 0.4),
    ),
)
