"""F11, F12: the broker forgets everything."""

from tests.faults.row import Row
from tests.faults.scene import WIPES, Scene


def flush(scene: Scene) -> None:
    while not scene.over():
        scene.pause_randomly(0.8)
        scene.wipe()


def kill_redis(scene: Scene) -> None:
    while not scene.over():
        scene.servers.kill_redis()
        scene.injected(WIPES)
        scene.pause(scene.chance.uniform(0.2, 1.5))
        scene.servers.redis.start()
        scene.pause(scene.chance.uniform(0.5, 3))


ROWS = (
    Row(
        "F11",
        "FLUSHALL under load",
        "every task ends: what is ready is published again",
        flush,
        seconds=45,
        workers=2,
        slots=2,  # so that messages wait on the lists
        rate=7,
        open_limit=120,
    ),
    Row(
        "F12",
        "kill -9 of Redis, started again empty",
        "workers stay alive and reconnect; every task ends",
        kill_redis,
        seconds=30,
    ),
)
