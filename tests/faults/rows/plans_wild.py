"""F47, F49: plans without end, with cycles, of ten thousand steps; and a thousand steps ready at once."""

import time
from uuid import UUID

from contracts.errors import InvalidInput
from shared_state import teams
from shared_state.tasks import Submission
from tests.faults import wild
from tests.faults.result import percentile
from tests.faults.row import Row
from tests.faults.scene import Scene

REFUSED_SECONDS = 1.0
LONG, STEPS_PER_SECOND = 10_000, 100
HERD, CLAIM_SECONDS = 1_000, 5.0
CONNECTIONS_PER_WORKER = 7
"""Five of its pool, one that writes, one to spare."""


def plan_wildly(scene: Scene) -> None:
    for team in wild.wild_teams():
        teams.apply(scene.engine, "default", team)
    planned = [scene.door.submit(Submission(team=name)) for name in ("cycle", "expand", "flood")]
    scene.injected("planners whose plans are wild", len(planned))
    slowest = max(_refuse(scene, plan) for plan in (wild.cycle, wild.expand, wild.flood))
    scene.facts["slowest refusal"] = f"{slowest:.2f} s"
    scene.expect(slowest <= REFUSED_SECONDS, f"refusing a plan took {slowest:.2f} s")
    for task in planned:
        scene.until(lambda task=task: _state(scene, task) == "failed", f"wild task {task} is given up", 30)
        steps = scene.query("select key, state from steps where task_id = %(id)s", id=task)
        scene.expect([row["state"] for row in steps] == ["dead"], f"a wild plan became steps: {steps[:5]}")
    began = time.monotonic()
    long = scene.door.submit(Submission(team="cycle", plan=wild.long_plan(LONG, width=100)))
    scene.injected("plans of 10,000 steps")
    scene.until(lambda: _state(scene, long) == "succeeded", "ten thousand steps are done", LONG / STEPS_PER_SECOND)
    scene.facts["steps/s of the long plan"] = f"{LONG / (time.monotonic() - began):.0f}"


def _refuse(scene: Scene, make: object) -> float:
    """Seconds until a plan brought along is refused."""
    if not callable(make):
        raise TypeError("a planner is a function")
    plan = make(None)
    began = time.monotonic()
    try:
        scene.door.submit(Submission(team="cycle", plan=plan))
        scene.problem("a wild plan was accepted")
    except InvalidInput:
        scene.injected("wild plans brought along")
    return time.monotonic() - began


def release_herds(scene: Scene) -> None:
    teams.apply(scene.engine, "default", wild.wild_teams()[0])
    waits: list[float] = []
    most = 0
    while not scene.over():
        task = scene.door.submit(Submission(team="cycle", plan=wild.herd_plan(HERD)))
        scene.injected("steps ready at once", HERD)
        while _state(scene, task) != "succeeded":
            most = max(most, scene.servers.connections(scene.database))
            scene.until(lambda task=task: _moved(scene, task), "the herd moves", 30)
        waits += [
            row["seconds"]
            for row in scene.query(
                """select extract(epoch from a.started_at - s.ready_at)::float8 as seconds from steps s
                join attempts a on a.step_id = s.id where s.task_id = %(id)s and s.key like 'leaf%%'""",
                id=task,
            )
        ]
    p99 = percentile(waits, 0.99) or 0.0
    scene.facts["from ready to claimed, p99"] = f"{p99:.2f} s of {len(waits)}"
    scene.facts["connections at most"] = str(most)
    scene.expect(p99 <= CLAIM_SECONDS, f"claiming took {p99:.2f} s (p99) of {len(waits)}")
    cap = CONNECTIONS_PER_WORKER * scene.row.workers + 20
    scene.expect(most <= cap, f"{most} connections at once, more than {cap}")


def _moved(scene: Scene, task: UUID, seen: dict[UUID, int] | None = None) -> bool:
    """Whether it has ended, or goes on: a look every now and then is enough."""
    time.sleep(0.2)
    return _state(scene, task) in ("succeeded", "running")


def _state(scene: Scene, task: UUID) -> str:
    state: str = scene.query("select state from tasks where id = %(id)s", id=task)[0]["state"]
    return state


ROWS = (
    Row(
        "F47",
        "plans with cycles, plans that plan again, plans of 10,001 steps; one of 10,000",
        "refused within 1 s or given up without a step; the long one ends at 100 steps/s at least",
        plan_wildly,
        seconds=30,
        shortest=20,
        rate=1,
        rest_seconds=90,
    ),
    Row(
        "F49",
        "1,000 steps become ready at once",
        "claimed within 5 s (p99); no more connections than the pools have",
        release_herds,
        seconds=20,
        rate=1,
        slots=50,
    ),
)
