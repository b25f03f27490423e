"""`python -m tests.deploy`: docker-compose.yml by hand, each of its long-running parts killed in turn.

A task through the services; one executor and four, with their throughput; then every part dies with a task in flight
and is started again as its policy says. Prints what it sees and exits 1 at the first thing that is wrong.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from tests.deploy.by_hand import ByHand
from tests.deploy.walk import Walk

EXECUTORS = 4


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="orchestrator-by-hand-") as folder, ByHand(Path(folder) / "house") as house:
        began = time.monotonic()
        house.up()
        say(f"up after {time.monotonic() - began:.1f} s: {', '.join(each.name for each in house.containers)}")
        for name, reason in house.skipped.items():
            say(f"skipped: {name}: {reason}")
        walk = Walk(house)
        say(f"a task of 11 steps: {walk.wait(walk.task(10)):.2f} s")
        alone = measure(walk)
        while len(house.of("worker-executor")) < EXECUTORS:
            house.add("worker-executor")
        for container in house.of("worker-executor"):
            house.until(container.is_healthy, f"{container.name} is healthy", container.service.health_seconds)
        together = measure(walk)
        for (what, one), (_, four) in zip(alone, together, strict=True):
            say(f"{what}: {one:.0f} steps/s with 1 executor, {four:.0f} with {EXECUTORS} ({os.cpu_count()} cores)")
        for container in list(house.containers):
            if container.service.restarts == "unless-stopped" and container.service.check:
                say(f"{container.name} killed: the task ended after {walk.survive_the_end_of(container):.1f} s")
        if "prometheus" not in house.skipped:
            house.until(lambda: walk.targets_up()[0] >= 6, "Prometheus scrapes every process")
            say("Prometheus: {} of {} targets up (executors 2 to 4 came after its file)".format(*walk.targets_up()))
        say(f"violations: {walk.violations()}")


def measure(walk: Walk) -> list[tuple[str, float]]:
    return [
        ("steps that work (echo)", walk.throughput(20, 50)),
        ("steps that wait a second each (as for a model)", walk.throughput(8, 100, "sleep", seconds=1.0)),
    ]


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    try:
        main()
    except AssertionError as error:
        sys.exit(str(error))
