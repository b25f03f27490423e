"""A real API on loopback, and a hand that moves steps as a worker would."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import Engine

from contracts.assignments import Assignment
from contracts.messages import StepRef
from contracts.settlements import Accept, AcceptPlan, Approve, Ask, Bury, Propose, Return
from contracts.teams import Agent, Role, Team
from orchestrator.api.application import make_api
from orchestrator.api.serve import listen, make_server, open_publisher
from shared_state import attempts, keys, teams
from shared_state.attempts import Record, Settling
from shared_state.engine import transaction
from shared_state.settings import Settings
from shared_state.statements import query

ROLES = ("viewer", "operator", "approver", "admin")
TEAM = Team(
    name="letters",
    description="Writes letters.",
    agents={
        "plan": Agent(role=Role.PLANNER, call="letters:plan"),
        "write": Agent(call="letters:write"),
        "checked": Agent(call="letters:write", review="judge"),
        "judge": Agent(role=Role.REVIEWER, call="letters:judge"),
    },
)


@dataclass(frozen=True)
class LiveApi:
    """`key_of` holds a key of tenant `default` for every role, and `foreign`: another tenant's admin."""

    url: str
    engine: Engine
    key_of: Mapping[str, str] = field(repr=False)

    def http(self, role: str | None = "admin") -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key_of[role]}"} if role else {}
        return httpx.Client(base_url=f"{self.url}/v1", headers=headers, timeout=20)


@contextmanager
def running_api(engine: Engine, database_url: str, broker_url: str, *, port: int = 0, **changed: Any) -> Iterator[str]:
    """The base URL of an API with these settings; stopped, and waited for, at the end."""
    settings = Settings(
        database_url=database_url,
        broker_url=broker_url,
        signing_keys={"test": SecretStr("a secret for tests only")},
        **{"data_dir": Path("unused"), "max_body_bytes": 200_000, **changed},
    )
    publisher = open_publisher(settings)
    try:
        with serving(make_api(settings, engine, publisher, walled=True), port) as url:
            yield url
    finally:
        publisher.close()


@contextmanager
def serving(api: FastAPI, port: int = 0) -> Iterator[str]:
    listener = listen("127.0.0.1", port)
    server = make_server(api)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def until(condition: Any, timeout_seconds: float = 10.0) -> Any:
    """The first truthy value of `condition`, polled."""
    deadline = time.monotonic() + timeout_seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        threading.Event().wait(0.02)
    return value


def make_keys(engine: Engine) -> dict[str, str]:
    made = {role: keys.create(engine, "default", f"the {role}", role) for role in ROLES}
    return {**made, "foreign": keys.create(engine, "elsewhere", "stranger", "admin")}


def apply_team(engine: Engine, team: Team = TEAM, tenant: str = "default") -> None:
    teams.apply(engine, tenant, team)


def claim(engine: Engine, task_id: str, key: str) -> Assignment:
    """Take one ready (or reviewing) step as a worker would."""
    with transaction(engine) as connection:
        sql = "select id, epoch from steps where task_id = %(task)s and key = %(key)s"
        row = query(connection, sql, task=task_id, key=key)[0]
        ref = StepRef(id=row["id"], epoch=row["epoch"])
        taken = attempts.claim(connection, [ref], worker="tester", lease_seconds=60)
    assert len(taken) == 1, "the step was not to be had"
    return taken[0]


def settle(
    engine: Engine,
    assignment: Assignment,
    settlement: Accept | AcceptPlan | Approve | Ask | Bury | Propose | Return,
    record: Record | None = None,
) -> None:
    with transaction(engine) as connection:
        settled = attempts.settle(connection, [Settling(assignment, settlement, record or Record())])
    assert (assignment.step_id, assignment.epoch) in settled.done


def finish(engine: Engine, task_id: str, key: str, output: Any = None) -> UUID:
    """Claim a step and have its output accepted."""
    assignment = claim(engine, task_id, key)
    settle(engine, assignment, Accept(output=output))
    return assignment.step_id
