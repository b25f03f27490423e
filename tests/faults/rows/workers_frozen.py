"""F03: a worker is frozen for three leases, wakes up with results in its hands and tries to settle them."""

import signal
from typing import Any

from contracts.plans import Plan
from tests.faults.row import Row
from tests.faults.scene import Scene
from tests.faults.staff import Member

LEASE_SECONDS = 2.0
FROZEN_SECONDS = 3 * LEASE_SECONDS
NAP_SECONDS = FROZEN_SECONDS - 1.5
"""Over when the worker wakes, and not over yet for whoever took the step on after the lease had lapsed."""
FROZEN, AWAKE = 4, 2
WIDTH = 80


def freeze(scene: Scene) -> None:
    """At least one round; then as many as there is time for."""
    workers = [scene.staff.members[f"w{number}"] for number in range(FROZEN)]
    while True:
        order = scene.load.put(many, nap_seconds=NAP_SECONDS)
        scene.until(lambda order=order: _running(scene, order.task_id) == WIDTH, "all steps run", 20)
        held = _freeze(scene, workers, order.task_id)
        try:
            scene.injected("workers frozen for 3 leases", len(workers))
            began = scene.left_seconds()
            scene.until(lambda began=began: began - scene.left_seconds() >= FROZEN_SECONDS or scene.over(), "", 30)
            scene.until(lambda held=held: _taken_over(scene, held) == len(held), "all steps were taken over", 10)
        finally:
            for worker in workers:
                scene.staff.signal(worker, signal.SIGCONT)
        scene.until(lambda order=order: scene.state(order) is not None, "the task ends", 40)
        _judge(scene, held)
        if scene.left_seconds() < 2 * FROZEN_SECONDS:
            return


def many(given: dict[str, Any]) -> Plan:
    steps = [{"id": f"s{number}", "agent": "work", "input": given} for number in range(WIDTH)]
    return Plan.model_validate({"steps": steps})


def _freeze(scene: Scene, workers: list[Member], task_id: Any) -> list[dict[str, Any]]:
    """The attempts of the task that the frozen ones hold. Others' might be committing at this very moment."""
    for worker in workers:
        scene.staff.signal(worker, signal.SIGSTOP)
    return scene.query(
        "select step_id, epoch from attempts where worker = any(%(names)s) and state = 'running' and task_id = %(id)s",
        id=task_id,
        names=[worker.name for worker in workers],
    )


def _running(scene: Scene, task_id: Any) -> int:
    sql = "select count(*) as n from attempts where task_id = %(id)s and state = 'running'"
    return int(scene.query(sql, id=task_id)[0]["n"])


def _taken_over(scene: Scene, held: list[dict[str, Any]]) -> int:
    sql = """select count(*) as n from unnest(%(ids)s::uuid[], %(epochs)s::bigint[]) h (id, epoch)
        join attempts a on a.step_id = h.id and a.epoch = h.epoch where a.state = 'expired'"""
    return int(scene.query(sql, **_keys(held))[0]["n"])


def _keys(held: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {"ids": [row["step_id"] for row in held], "epochs": [row["epoch"] for row in held]}


def _judge(scene: Scene, held: list[dict[str, Any]]) -> None:
    rows = scene.query(
        """select a.state, o.epoch > a.epoch as later from unnest(%(ids)s::uuid[], %(epochs)s::bigint[]) h (id, epoch)
        join attempts a on a.step_id = h.id and a.epoch = h.epoch left join outputs o on o.step_id = h.id""",
        **_keys(held),
    )
    refused = sum(row["state"] == "expired" and bool(row["later"]) for row in rows)
    scene.injected("late results", len(held))
    scene.injected("refused", refused)
    if refused < len(held):
        scene.problem(f"{len(held) - refused} of {len(held)} late results were not refused")


ROWS = (
    Row(
        "F03",
        "SIGSTOP of workers for three leases, SIGCONT",
        "every late result is refused",
        freeze,
        seconds=75,
        shortest=14,
        workers=FROZEN + AWAKE,
        slots=60,
        settings={"lease_seconds": LEASE_SECONDS, "sweep_seconds": 0.5},
        rate=1,
    ),
)
