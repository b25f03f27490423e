"""Drives the transitions by hand, one at a time, as a worker would: for tests of what each of them does."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Engine

from contracts.assignments import Assignment
from contracts.messages import StepRef
from contracts.plans import Plan
from contracts.settlements import Accept, Settlement
from contracts.teams import Agent, Team
from shared_state.attempts import Settling, claim, settle
from shared_state.engine import retrying, transaction
from shared_state.outbox import Wakeup
from shared_state.statements import query
from shared_state.tasks import Created, Submission, submit
from shared_state.teams import apply

TEAM = Team(
    name="plain",
    agents={
        "work": Agent(call="m:f"),
        "careful": Agent(call="m:f", review="judge"),
        "judge": Agent(call="m:f", role="reviewer"),
    },
)
PLANNED = Team(
    name="planned", agents={"lead": Agent(call="m:f", role="planner"), "work": Agent(call="m:f")}, bounds={"steps": 5}
)


class Driver:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        apply(engine, "default", TEAM)
        apply(engine, "default", PLANNED)

    def submit(self, steps: Sequence[dict[str, Any]], **fields: Any) -> UUID:
        plan = Plan.model_validate({"steps": [{"agent": "work", **step} for step in steps]})
        return self.created(Submission(team="plain", plan=plan, **fields))

    def created(self, submission: Submission) -> UUID:
        result = submit(self.engine, "default", [submission]).results[0]
        assert isinstance(result, Created), result
        return result.task_id

    def ready(self) -> list[dict[str, Any]]:
        return self.query("select o.*, s.key from outbox o join steps s on s.id = o.step_id order by s.rank, s.key")

    def claim(self, *keys: str, worker: str = "w1", lease_seconds: float = 30) -> list[Assignment]:
        """Claim the named ready steps; all of them when none is named."""
        refs = [
            StepRef(id=row["step_id"], epoch=row["epoch"]) for row in self.ready() if not keys or row["key"] in keys
        ]
        return self.claim_refs(refs, worker, lease_seconds)

    def claim_refs(self, refs: Sequence[StepRef], worker: str = "w1", lease_seconds: float = 30) -> list[Assignment]:
        def work(connection: Any) -> list[Assignment]:
            return claim(connection, refs, worker=worker, lease_seconds=lease_seconds)

        return retrying(self.engine, work)

    def settle(self, assignment: Assignment, settlement: Settlement | None = None) -> tuple[bool, list[Wakeup]]:
        settling = Settling(assignment, settlement or Accept(output={"from": assignment.key}))
        settled = retrying(self.engine, lambda connection: settle(connection, [settling]))
        return settling.key in settled.done, settled.wakeups

    def finish_all(self, limit: int = 100) -> list[str]:
        """Claim and accept whatever is ready until nothing is; the keys in the order they were done."""
        order: list[str] = []
        for _ in range(limit):
            assignments = self.claim()
            if not assignments:
                return order
            for assignment in assignments:
                assert self.settle(assignment)[0]
                order.append(assignment.key)
        raise AssertionError("still not done")

    def states(self, task_id: UUID) -> dict[str, str]:
        rows = self.query("select key, state from steps where task_id = %(id)s", id=task_id)
        return {row["key"]: row["state"] for row in rows}

    def task(self, task_id: UUID) -> dict[str, Any]:
        return self.query("select * from tasks where id = %(id)s", id=task_id)[0]

    def query(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        with transaction(self.engine) as connection:
            return query(connection, sql, **parameters)

    def lapse(self) -> None:
        """Let every lease lapse now: moving the time in the row, not the clock."""
        self.query(
            "update steps set lease_until = clock_timestamp() - interval '1 second' where lease_until is not null"
        )
