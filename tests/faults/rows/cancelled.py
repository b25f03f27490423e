"""F39, F40: tasks are cancelled at any time, and in the very moment of a commit."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from contracts.errors import Conflict, NotFound
from shared_state import tasks
from tests.faults.load import Ordered, apart, chain
from tests.faults.row import Row
from tests.faults.scene import LEASE_SECONDS, Scene

QUIET_SECONDS = min(LEASE_SECONDS / 4, 2.0) + 1.0
"""A heartbeat tells of the cancel; the rest is for the signal, and for a machine that is busy."""
RACERS = 8


def cancel_at_random(scene: Scene) -> None:
    """Steps that write down all the time that they still run."""
    cancelled: dict[UUID, float] = {}
    while not scene.over():
        order = scene.load.put(apart, nap_seconds=3.0, tick_seconds=0.05)
        scene.pause(scene.chance.uniform(0, 1.5))
        if _cancel(scene, order) and order.task_id is not None:
            cancelled[order.task_id] = time.time()
    scene.come_to_rest()
    quiet = [
        at - cancelled[UUID(task)]
        for (task, _step, _attempt), at in scene.ledger.last_ticks().items()
        if UUID(task) in cancelled
    ]
    longest = max(quiet, default=0.0)
    scene.facts["longest run after a cancel"] = f"{longest:.2f} s of {len(quiet)}"
    scene.expect(bool(quiet), "no step was running when its task was cancelled")
    scene.expect(longest <= QUIET_SECONDS, f"a step ran {longest:.2f} s after its cancel, more than {QUIET_SECONDS:g}")


def cancel_in_the_moment(scene: Scene) -> None:
    """Short tasks, each cancelled by several at once about when it ends: it is one or the other, never both."""
    with ThreadPoolExecutor(RACERS) as pool:
        while not scene.over():
            order = scene.load.put(lambda given: chain(given, length=1), nap_seconds=0.05)
            scene.pause(scene.chance.uniform(0.0, 0.15))
            answers = list(pool.map(lambda order: _cancel(scene, order), [order] * 2))
            scene.expect(len(set(answers)) == 1 or answers[-1], f"{order.task_id}: cancelled and not cancelled")
    scene.come_to_rest()
    both = scene.query(
        """select t.id from tasks t where t.state = 'cancelled'
        and exists (select from outputs o where o.task_id = t.id and o.accepted_at > t.cancel_requested_at)"""
    )
    scene.expect(not both, f"{len(both)} tasks were cancelled and committed after it")
    ends = scene.query("select state, count(*) as n from tasks group by state")
    scene.facts["ends"] = ", ".join(f"{row['n']} {row['state']}" for row in ends)


def _cancel(scene: Scene, order: Ordered) -> bool:
    """False where it had ended before."""
    if order.task_id is None:
        raise AssertionError("it was never accepted")
    try:
        tasks.cancel(scene.engine, "default", order.task_id, "faults")
    except (Conflict, NotFound):
        return False
    order.wanted_state = "cancelled"
    scene.injected("cancels")
    return True


def _row(name: str, fault: str, holds: str, inject: Callable[[Scene], None]) -> Row:
    return Row(name, fault, holds, inject, seconds=20, workers=2, rate=2)


ROWS = (
    _row("F39", "tasks cancelled at any time", "nothing of them runs a heartbeat later", cancel_at_random),
    _row("F40", "two cancels and the last commit at once", "exactly one of them holds", cancel_in_the_moment),
)
