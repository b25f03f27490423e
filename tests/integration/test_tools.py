"""What an agent's tools can read of its task, on a real Postgres: what the step stands on, and nothing else."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine

from contracts.assignments import Assignment
from contracts.errors import NotFound
from contracts.settlements import Accept
from shared_state.artifacts import ArtifactStore
from shared_state.lineage import Lineage
from tests.integration.driver import Driver
from tests.integration.test_plans_of_statements import check
from workers.llm.tools import TOOLS, Desk, Sources, call


@pytest.fixture
def driver(engine: Engine) -> Driver:
    return Driver(engine)


def desk(driver: Driver, assignment: Assignment) -> Desk:
    lineage = Lineage(driver.engine, assignment.tenant, assignment.step_id)
    artifacts = ArtifactStore(driver.engine, assignment.tenant, None)
    return Desk(Sources(assignment, artifacts, lineage), lambda: datetime.now(UTC))


def ask(tool: str, at: Desk, **arguments: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(call(TOOLS[tool], at, arguments).text)
    return answer


def settled(driver: Driver, key: str, output: Any) -> None:
    (assignment,) = driver.claim(key)
    assert driver.settle(assignment, Accept(output=output))[0]


def test_a_step_reads_the_outputs_and_artifacts_of_all_steps_before_it(driver: Driver) -> None:
    store = ArtifactStore(driver.engine, "default", None)
    spec = store.put(b"the port is 8080", "text/plain")
    beside = store.put(b"a secret of the sibling", "text/plain")
    driver.submit(
        [
            {"id": "fetch", "input": {"url": "x"}},
            {"id": "outline", "needs": ["fetch"]},
            {"id": "also", "needs": ["fetch"]},
            {"id": "write", "needs": ["outline", "also"]},
            {"id": "sibling"},
        ],
        input={"question": "which port?"},
    )
    settled(driver, "sibling", {"file": beside.model_dump()})
    settled(driver, "fetch", {"pages": [{"file": spec.model_dump()}], "title": "a manual"})
    settled(driver, "outline", {"chapters": ["ports"]})
    settled(driver, "also", ["plain"])
    (assignment,) = driver.claim("write")
    at = desk(driver, assignment)

    listed = ask("list_sources", at)["data"]["sources"]
    names = ["input", "task", "step:fetch", "step:also", "step:outline", f"artifact:{spec.sha256[:16]}"]
    assert [each["source"] for each in listed] == names
    assert listed[2]["origin"] == "made by work"
    assert listed[-1]["origin"] == "referred to in step:fetch"

    assert json.loads(ask("read_source", at, source="task")["data"]["text"]) == {"question": "which port?"}
    # Of a step that this one needs only through another.
    assert json.loads(ask("read_source", at, source="step:fetch")["data"]["text"])["title"] == "a manual"
    assert json.loads(ask("read_source", at, source="step:outline")["data"]["text"]) == {"chapters": ["ports"]}
    (match,) = ask("search_sources", at, text="8080")["data"]["matches"]
    assert match["source"] == names[-1]
    assert ask("read_source", at, source=names[-1], offset=match["offset"])["data"]["text"] == "8080"

    for name in ("step:sibling", f"artifact:{beside.sha256}"):
        assert ask("read_source", at, source=name)["code"] == "tool.not_found", name
    assert ask("search_sources", at, text="secret")["data"]["matches"] == []


def test_what_a_step_reads_is_the_same_whenever_it_looks(driver: Driver) -> None:
    driver.submit([{"id": "a"}, {"id": "b", "needs": ["a"]}, {"id": "late"}])
    settled(driver, "a", {"n": 1})
    (assignment,) = driver.claim("b")
    first = ask("list_sources", desk(driver, assignment))
    settled(driver, "late", {"n": 2})
    assert ask("list_sources", desk(driver, assignment)) == first


def test_another_tenant_reads_nothing(driver: Driver) -> None:
    driver.submit([{"id": "a"}, {"id": "b", "needs": ["a"]}], input={"n": 0})
    settled(driver, "a", {"n": 1})
    (assignment,) = driver.claim("b")
    assert [each.key for each in Lineage(driver.engine, "default", assignment.step_id).outputs()] == ["a"]
    foreign = Lineage(driver.engine, "elsewhere", assignment.step_id)
    assert (foreign.outputs(), foreign.task_input()) == ([], None)
    with pytest.raises(NotFound):
        foreign.body("a")


def test_lineage_is_read_by_index(engine: Engine) -> None:
    check(engine, "view_lineage")
