"""What is tried on an installation that runs by hand: a task, a scale-out with its throughput, every part killed."""

import json
import time
import urllib.request
from typing import Any, Self

from contracts.errors import OrchestratorError
from orchestrator.client import Client
from tests.deploy.by_hand import ByHand, Container

ENDED = ("succeeded", "failed", "cancelled")


class Walk:
    def __init__(self, house: ByHand) -> None:
        self.house = house
        (api,) = house.of("api")
        api.run("orchestrator", "teams", "apply", "--built-in")
        words = ("orchestrator", "keys", "create", "--role", "operator", "--name", "by-hand")
        self.client = Client(f"http://{api.address}:8080", api.run(*words).split()[-1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def task(self, steps: int, agent: str = "echo", **given: Any) -> str:
        """A planner-less task of so many steps side by side and a reviewed one that needs them all; its id."""
        made = [{"id": f"s{number}", "agent": agent, "input": given or {"n": number}} for number in range(steps)]
        last = {"id": "last", "agent": "echo_reviewed", "needs": [step["id"] for step in made]}
        return str(self.client.submit("diagnostics", plan={"steps": [*made, last]})["id"])

    def ended(self, task_id: str) -> dict[str, Any] | None:
        """The task once it has ended; None before, and while the API is away."""
        try:
            found: dict[str, Any] = dict(self.client.task(task_id))
        except (OrchestratorError, OSError):
            return None
        return found if found["state"] in ENDED else None

    def wait(self, task_id: str, deadline_seconds: float = 90) -> float:
        """Seconds until it succeeded; anything else is a failure."""
        began = time.monotonic()
        self.house.until(lambda: self.ended(task_id), f"task {task_id} ends", deadline_seconds)
        found = self.ended(task_id) or self.client.task(task_id)
        assert found["state"] == "succeeded", found
        return time.monotonic() - began

    def throughput(self, tasks: int, steps: int, agent: str = "echo", **given: Any) -> float:
        """Steps a second."""
        began = time.monotonic()
        for task_id in [self.task(steps, agent, **given) for _ in range(tasks)]:
            self.wait(task_id, 300)
        return tasks * (steps + 1) / (time.monotonic() - began)

    def survive_the_end_of(self, container: Container) -> float:
        """Kill it with a task in flight, let its policy start it again; seconds until the task has ended."""
        task_id = self.task(20, "sleep", seconds=1.0)
        until = self.house.until
        until(lambda: self.client.task(task_id)["step_counts"].get("running", 0) > 0, "steps run", 30)
        before = container.restarts
        container.kill()
        began = time.monotonic()
        until(lambda: container.restarts > before and container.pid, f"{container.name} is started again", 30)
        self.wait(task_id)
        if container.service.check:
            until(container.is_healthy, f"{container.name} is healthy again", container.service.health_seconds)
        return time.monotonic() - began

    def targets_up(self) -> tuple[int, int]:
        """Of Prometheus's targets: how many it can scrape, and how many there are."""
        (prometheus,) = self.house.of("prometheus")
        with urllib.request.urlopen(f"http://{prometheus.address}:9090/api/v1/targets?state=active") as answer:
            found = json.load(answer)["data"]["activeTargets"]
        return sum(each["health"] == "up" for each in found), len(found)

    def violations(self) -> list[Any]:
        found: list[Any] = json.loads(self.house.of("loops")[0].run("orchestrator", "verify", "--json"))
        return found
