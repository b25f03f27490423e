"""F50: what is still poisoned is redriven again and again, and by several people at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

from contracts.plans import Plan
from shared_state import dead_letters, outbox, teams
from shared_state.tasks import Submission
from tests.faults.row import Row
from tests.faults.scene import Scene
from tests.faults.wild import wild_teams

TIMES = 5
CLICKS = 4


def redrive_poison(scene: Scene) -> None:
    teams.apply(scene.engine, "default", wild_teams()[0])
    with ThreadPoolExecutor(CLICKS) as pool:
        while not scene.over():
            poisoned = scene.folder / f"poisoned-{scene.chance.getrandbits(32):x}"
            poisoned.touch()
            given = {"while": str(poisoned)}
            plan = Plan.model_validate({"steps": [{"id": "bad", "agent": "poison", "input": given}]})
            task = scene.door.submit(Submission(team="cycle", plan=plan))
            for time in range(1, TIMES + 1):
                _click(scene, pool, task, time)
            _await_dead(scene, task, TIMES + 1)
            poisoned.unlink()
            _click(scene, pool, task, TIMES + 1)
            scene.until(lambda task=task: _task(scene, task) == "succeeded", "mended, it succeeds", 20)
            _judge(scene, task, poisoned)


def _click(scene: Scene, pool: ThreadPoolExecutor, task: UUID, time: int) -> None:
    """Several people redrive the same dead letter at once; one of them does."""
    _await_dead(scene, task, time)
    (letter,) = [row["id"] for row in _letters(scene, task) if row["state"] == "open"]
    done = list(pool.map(lambda _: dead_letters.redrive(scene.engine, "default", [letter], "faults"), range(CLICKS)))
    scene.injected("clicks on redrive", CLICKS)
    redriven = sum(len(each.redriven) for each in done)
    scene.expect(redriven == 1, f"{CLICKS} clicks redrove a dead letter {redriven} times")
    for each in done:
        outbox.publish(scene.publisher, each.wakeups)


def _await_dead(scene: Scene, task: UUID, times: int) -> None:
    scene.until(
        lambda: _task(scene, task) == "failed" and len(_letters(scene, task)) == times,
        f"it is dead for the {times}. time",
        20,
    )


def _judge(scene: Scene, task: UUID, poisoned: Path) -> None:
    states = [row["state"] for row in _letters(scene, task)]
    scene.expect(states == ["redriven"] * (TIMES + 1), f"the dead letters are {states}")
    attempts = scene.query("select state from attempts where task_id = %(id)s order by epoch", id=task)
    made = [row["state"] for row in attempts]
    scene.expect(made == ["failed"] * (TIMES + 1) + ["succeeded"], f"one attempt a click, but {made}")


def _letters(scene: Scene, task: UUID) -> list[dict[str, Any]]:
    return scene.query("select id, state from dead_letters where task_id = %(id)s order by created_at", id=task)


def _task(scene: Scene, task: UUID) -> str:
    state: str = scene.query("select state from tasks where id = %(id)s", id=task)[0]["state"]
    return state


ROWS = (
    Row(
        "F50",
        "a step that is still poisoned is redriven five times, by four clicks each",
        "one attempt and one dead letter for each redrive; mended, it succeeds",
        redrive_poison,
        seconds=20,
        workers=2,
        rate=2,
    ),
)
