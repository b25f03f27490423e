"""F13, F14, F15: the broker does not answer, is full, or is not there. Nobody may notice at the API."""

from tests.faults.doors import HttpDoor
from tests.faults.result import percentile
from tests.faults.row import Row
from tests.faults.scene import Scene

SUBMIT_TARGET_SECONDS = 1.0


def freeze_redis(scene: Scene) -> None:
    times: list[float] = []
    while not scene.over():
        before = len(scene.load.slowest_seconds)
        with scene.servers.frozen("redis"):
            scene.injected("seconds of a frozen broker", round(min(12.0, scene.left_seconds())))
            scene.pause(12)
            times += scene.load.slowest_seconds[before:]
        scene.pause(5)
    _judge_submits(scene, times)


def fill_redis(scene: Scene) -> None:
    """maxmemory without eviction: every push is refused."""
    with scene.servers.client() as client:
        while not scene.over():
            client.config_set("maxmemory", 1)
            scene.injected("times full")
            scene.pause(scene.chance.uniform(1, 4))
            client.config_set("maxmemory", 0)
            scene.pause(scene.chance.uniform(0.5, 2))


def refuse_redis(scene: Scene) -> None:
    times: list[float] = []
    proxy = scene.proxies["redis"]
    while not scene.over():
        before = len(scene.load.slowest_seconds)
        proxy.refuse()
        scene.injected("times gone")
        scene.pause(scene.chance.uniform(2, 5))
        if isinstance(scene.door, HttpDoor):
            status = scene.door.readiness()
            scene.expect(status == "degraded", f"/ready says {status!r} while the broker is away")
        times += scene.load.slowest_seconds[before:]
        proxy.listen()
        scene.pause(scene.chance.uniform(1, 3))
    _judge_submits(scene, times)


def _judge_submits(scene: Scene, times: list[float]) -> None:
    p99 = percentile(times, 0.99)
    scene.expect(p99 is not None, "nothing was submitted while the broker was away")
    if p99 is not None:
        scene.facts["submit p99 meanwhile"] = f"{p99:.2f} s of {len(times)}"
        scene.expect(p99 <= SUBMIT_TARGET_SECONDS, f"submitting takes {p99:.2f} s (p99) while the broker is away")


ROWS = (
    Row(
        "F13",
        "SIGSTOP of Redis for 12 s at a time",
        "the API accepts tasks within 1 s (p99)",
        freeze_redis,
        seconds=50,
        shortest=14,
        api=True,
        rate=4,
        open_limit=400,
        rest_seconds=90,
    ),
    Row("F14", "Redis is full: every push is refused", "nothing crashes; every task ends", fill_redis, seconds=25),
    Row(
        "F15",
        "Redis is not there: connections refused",
        "the API accepts tasks within 1 s (p99), /ready says degraded",
        refuse_redis,
        seconds=25,
        api=True,
        proxied=frozenset({"redis"}),
        rate=4,
        open_limit=400,
    ),
)
