"""docker-compose.yml, run by hand: a task through its services, one more executor, and a part that dies.

The long form, in which each part dies, is `make deploy-by-hand`.
"""

import pytest

from tests.deploy.by_hand import by_hand
from tests.deploy.walk import Walk


@pytest.mark.timeout(180)
def test_the_services_by_hand_carry_a_task_although_a_worker_dies(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("by-hand")
    with by_hand(folder, ORCHESTRATOR_LEASE_SECONDS="3") as house, Walk(house) as walk:
        walk.wait(walk.task(10))
        house.add("worker-executor")
        first, _ = house.of("worker-executor")
        walk.survive_the_end_of(first)
        if "prometheus" not in house.skipped:
            house.until(lambda: walk.targets_up()[0] >= 6, "Prometheus scrapes the API and every process")
        assert walk.violations() == []
