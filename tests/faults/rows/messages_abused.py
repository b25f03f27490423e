"""F16, F17, F18: messages come ten times, in another order, late, or long after their epoch."""

import random
import time
from typing import Any

from contracts.topology import MessageKind
from shared_state.outbox import Wakeup, messages_for
from tests.faults.row import Row
from tests.faults.scene import Scene

TIMES = 10
QUEUES = ("plan", "execute", "review")
LATE_SECONDS = 20.0

_READY = "select step_id, epoch, queue, kind from outbox"
_CLAIMED = """select a.step_id, a.epoch, case a.role when 'reviewer' then s.reviewer_queue else s.queue end as queue,
    case a.role when 'reviewer' then 'review' when 'planner' then 'plan' else 'execute' end as kind
    from attempts a join steps s on s.id = a.step_id"""


def repeat(scene: Scene) -> None:
    """Whatever is ready, running or over: ten signed messages each, shuffled."""
    while not scene.over():
        scene.pause(0.2)
        recent = f"select * from ({_CLAIMED} order by a.started_at desc limit 300) c"
        _publish(scene, f"select * from ({recent} union all {_READY}) m order by random() limit 60", TIMES)


def replay_old(scene: Scene) -> None:
    """Messages of epochs that are over; workers die unseen, so that there are many."""
    scene.staff.supervised = False
    while not scene.over():
        scene.kill_some(1)
        scene.pause(0.5)
        _publish(scene, f"{_CLAIMED} where a.epoch < s.epoch order by random() limit 60", 3)


def reorder(scene: Scene) -> None:
    """Take everything off the queues, and put it back shuffled, each piece up to 20 s later."""
    held: list[tuple[float, str, bytes]] = []
    with scene.servers.client() as client:
        while not scene.over():
            scene.pause(0.1)
            for queue in QUEUES:
                taken, _ = client.pipeline(transaction=True).lrange(queue, 0, -1).delete(queue).execute()
                held += [(time.monotonic() + scene.chance.uniform(0, LATE_SECONDS), queue, raw) for raw in taken]
                scene.injected("messages delayed and reordered", len(taken))
            held = _put_back(client, held, time.monotonic(), scene.chance)
        _put_back(client, held, float("inf"), scene.chance)


def _put_back(client: Any, held: list[tuple[float, str, bytes]], until: float, chance: random.Random) -> Any:
    due = [each for each in held if each[0] <= until]
    chance.shuffle(due)
    for _, queue, raw in due:
        client.lpush(queue, raw)
    return [each for each in held if each[0] > until]


def _publish(scene: Scene, sql: str, times: int) -> None:
    rows = scene.query(sql)
    single = [
        message
        for row in rows
        for message in messages_for(
            [Wakeup(row["step_id"], row["epoch"], row["queue"], MessageKind(row["kind"]), None)]
        )
    ]
    messages = single * times
    scene.chance.shuffle(messages)
    scene.publisher.publish(messages)
    scene.injected("messages that say nothing new", len(messages))


ROWS = (
    Row("F16", "every message ten times, in any order, at any time", "no step runs twice", repeat, seconds=40),
    Row(
        "F17",
        "messages held back up to 20 s and shuffled",
        "every task ends; what comes late changes nothing",
        reorder,
        seconds=40,
        workers=2,
        slots=3,
        rate=8,
        open_limit=120,
    ),
    Row(
        "F18",
        "messages of epochs that are over; workers killed unseen meanwhile",
        "they change nothing",
        replay_old,
        workers=6,
        nap_seconds=(0.1, 0.6),
    ),
)
