"""Pauses and limits in the database: what a rule holds back is not claimed, not sent for, and never lost."""

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine

from contracts.errors import Conflict, Failure, NotFound
from contracts.messages import Message, StepRef
from contracts.settlements import Propose, Return
from contracts.teams import Agent, Team
from shared_state import tasks
from shared_state.attempts import begin_claim, claim
from shared_state.engine import retrying, transaction
from shared_state.outbox import RelayPass, relay
from shared_state.pauses import Target, pause, resume
from shared_state.prune import prune
from shared_state.sweep import expire_worker
from shared_state.teams import apply
from shared_state.verify import violations
from tests.integration.driver import TEAM, Driver

ME = ("a reason", "me")


class Sink:
    def __init__(self) -> None:
        self.sent: list[UUID] = []

    def publish(self, messages: Sequence[Message]) -> None:
        self.sent.extend(ref.id for message in messages for ref in message.steps)


@pytest.fixture
def driver(engine: Engine) -> Driver:
    return Driver(engine)


def limit(driver: Driver, **concurrency: int) -> None:
    """Apply the team again with these limits, and no others."""
    agents = {
        name: agent.model_copy(update={"concurrency": concurrency.get(name)}) for name, agent in TEAM.agents.items()
    }
    apply(driver.engine, "default", TEAM.model_copy(update={"agents": agents}))


def passed(driver: Driver) -> tuple[RelayPass, list[str]]:
    """One pass of the relay, and the keys it sent for."""
    sink = Sink()
    done = relay(driver.engine, sink, republish_seconds=60, window=1000)
    keys = driver.query("select id, key from steps where id = any (%(ids)s)", ids=sink.sent)
    return done, sorted(row["key"] for row in keys)


def parked(driver: Driver) -> list[str]:
    return [
        row["key"] for row in driver.query("select s.key from parked k join steps s on s.id = k.step_id order by 1")
    ]


def keys(found: Sequence[Any]) -> list[str]:
    return sorted(each.key for each in found)


def fan(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"id": f"s{number}", **fields} for number in range(count)]


@pytest.mark.parametrize("what", ["task", "team", "agent"])
def test_what_is_paused_is_not_claimed_and_comes_back(driver: Driver, what: str) -> None:
    task = driver.submit([{"id": "a"}, {"id": "b"}, {"id": "c", "needs": ["a"]}])
    target = {"task": Target(task_id=task), "team": Target(team="plain"), "agent": Target(team="plain", agent="work")}
    (running,) = driver.claim("a")
    refs = [StepRef(id=row["step_id"], epoch=row["epoch"]) for row in driver.ready()]
    pause(driver.engine, "default", target[what], *ME)
    assert driver.claim() == []
    assert driver.states(task) == {"a": "running", "b": "ready", "c": "blocked"}, "no state of its own"
    assert parked(driver) == ["b"]
    assert driver.claim_refs(refs) == [], "nor by a message that comes again"
    assert driver.settle(running)[0], "what ran counts"
    assert driver.claim() == []
    assert parked(driver) == ["b", "c"]
    assert passed(driver)[1] == []
    assert violations(driver.engine) == []

    resume(driver.engine, "default", target[what], "me")
    assert passed(driver)[1] == ["b", "c"]
    assert parked(driver) == []
    assert [each.attempt for each in driver.claim()] == [1, 1]


@pytest.mark.parametrize(
    "target",
    [
        lambda other: Target(task_id=other),
        lambda _: Target(team="planned"),
        lambda _: Target(team="plain", agent="careful"),
        lambda _: Target(team="plain", agent="judge"),
    ],
)
def test_a_pause_holds_nothing_else(driver: Driver, target: Any) -> None:
    other = driver.submit([{"id": "other"}])
    driver.claim("other")
    driver.submit([{"id": "a"}])
    pause(driver.engine, "default", target(other), *ME)
    assert passed(driver)[1] == []
    assert keys(driver.claim()) == ["a"]


def test_a_pause_of_another_tenant_holds_nothing(driver: Driver) -> None:
    driver.query("insert into tenants (id) values ('elsewhere')")
    apply(driver.engine, "elsewhere", TEAM)
    pause(driver.engine, "elsewhere", Target(team="plain"), *ME)
    driver.submit([{"id": "a"}])
    assert keys(driver.claim()) == ["a"]
    resume(driver.engine, "default", Target(team="plain"), "me")
    assert driver.query("select 1 from rules where ended_at is null") != []


def test_a_paused_reviewer_holds_reviews_only(driver: Driver) -> None:
    task = driver.submit([{"id": "a", "agent": "careful"}, {"id": "b", "agent": "careful"}])
    pause(driver.engine, "default", Target(team="plain", agent="judge"), *ME)
    for assignment in driver.claim():
        driver.settle(assignment, Propose(output=1))
    assert driver.states(task) == {"a": "reviewing", "b": "reviewing"}
    assert driver.claim() == []
    resume(driver.engine, "default", Target(team="plain", agent="judge"), "me")
    assert passed(driver)[1] == ["a", "b"]


def test_every_pause_must_end_and_only_the_one_that_is_meant_does(driver: Driver) -> None:
    task = driver.submit(fan(2))
    every = [Target(task_id=task), Target(team="plain"), Target(team="plain", agent="work")]
    for target in every:
        pause(driver.engine, "default", target, *ME)
        pause(driver.engine, "default", target, "again", "another")
    assert driver.query("select distinct set_by from rules where ended_at is null") == [{"set_by": "me"}]
    for target in every:
        assert driver.claim() == []
        assert passed(driver)[1] == []
        resume(driver.engine, "default", target, "me")
    assert passed(driver)[1] == ["s0", "s1"]
    types = [row["type"] for row in driver.query("select type from events where type like 'task.%%ed' order by id")]
    assert types == ["task.submitted", "task.paused", "task.resumed"]


def test_waiting_entries_are_parked_instead_of_sent(driver: Driver) -> None:
    task = driver.submit(fan(50))
    pause(driver.engine, "default", Target(task_id=task), *ME)
    done, sent = passed(driver)
    assert (sent, done.parked, done.found_work) == ([], 30, True), "30 of 50 waited for their turn"
    assert not passed(driver)[0].found_work, "it does not go round and round"
    driver.query("update outbox set published_at = clock_timestamp() - interval '1 hour'")
    assert passed(driver) == (RelayPass(True, parked=20), [])
    assert len(parked(driver)) == 50
    resume(driver.engine, "default", Target(task_id=task), "me")
    assert len(passed(driver)[1]) == 50


def test_a_task_that_is_cancelled_while_paused_leaves_no_entry(driver: Driver) -> None:
    task = driver.submit(fan(3))
    pause(driver.engine, "default", Target(task_id=task), *ME)
    driver.claim()
    tasks.cancel(driver.engine, "default", task, "me")
    assert parked(driver) == []
    with pytest.raises(Conflict):
        pause(driver.engine, "default", Target(task_id=task), *ME)
    prune(driver.engine, retention_days=30)
    assert driver.query("select ended_by from rules") == [{"ended_by": "the end of its task"}]


@pytest.mark.parametrize(
    "target", [Target(task_id=UUID(int=1)), Target(team="nobody"), Target(team="plain", agent="nobody")]
)
def test_nothing_that_is_not_there_is_paused(driver: Driver, target: Target) -> None:
    with pytest.raises(NotFound):
        pause(driver.engine, "default", target, *ME)
    with pytest.raises(NotFound):
        resume(driver.engine, "default", target, "me")


def test_a_deadline_goes_on_running(driver: Driver) -> None:
    task = driver.submit(fan(2), deadline_seconds=1000)
    pause(driver.engine, "default", Target(task_id=task), *ME)
    assert driver.claim() == []
    driver.query("update tasks set deadline_at = clock_timestamp() - interval '1 second'")
    tasks.cancel_overdue(driver.engine)
    assert driver.task(task)["state"] == "cancelled"


def test_a_claim_takes_at_once_what_no_rule_may_hold_and_says_what_is_left(driver: Driver) -> None:
    paused = driver.submit([{"id": "paused"}])
    driver.submit([{"id": "limited", "agent": "careful"}, {"id": "free"}])
    limit(driver, judge=3, careful=3)
    pause(driver.engine, "default", Target(task_id=paused), *ME)
    refs = {row["key"]: StepRef(id=row["step_id"], epoch=row["epoch"]) for row in driver.ready()}
    with transaction(driver.engine) as connection:
        claims = begin_claim(connection, list(refs.values()), worker="w1", lease_seconds=30)()
    assert keys(claims.assignments) == ["free"]
    assert {ref.id for ref in claims.ruled} == {refs["paused"].id, refs["limited"].id}
    assert len(driver.query("select 1 from attempts")) == 1
    assert parked(driver) == []


def test_a_limited_agent_runs_as_often_as_it_may(driver: Driver) -> None:
    limit(driver, work=3)
    driver.submit(fan(10))
    assert driver.claim() == []
    running = []
    for _ in range(4):
        assert len(passed(driver)[1]) == 3 - len(running)
        running += driver.claim()
        assert len(running) == 3
        assert passed(driver)[1] == [], "a place that is taken is not given again"
        driver.settle(running.pop())
    assert violations(driver.engine) == []


def test_a_place_is_kept_until_it_is_claimed(driver: Driver) -> None:
    limit(driver, work=2)
    driver.submit(fan(5))
    assert driver.claim() == []
    first = passed(driver)[1]
    assert len(first) == 2
    driver.query("update outbox set published_at = null, publish_count = 0")  # its receiver had no room
    assert passed(driver)[1] == first
    assert keys(driver.claim()) == first


def test_an_agents_reviews_and_a_retry_need_places_too(driver: Driver) -> None:
    limit(driver, judge=1, careful=1)
    task = driver.submit([{"id": "a", "agent": "careful"}, {"id": "b", "agent": "careful"}])
    seen: Counter[str] = Counter()
    for _ in range(20):
        passed(driver)
        taken = driver.claim()
        assert max(Counter(each.agent for each in taken).values(), default=0) <= 1
        for each in taken:
            seen[each.agent] += 1
            failed = Return(to="ready", failure=Failure(code="agent.error", text="x"))
            driver.settle(
                each, failed if seen[each.agent] == 1 else None if each.agent == "judge" else Propose(output=1)
            )
        assert [found for found in violations(driver.engine) if found.kind == "safety"] == []
        if set(driver.states(task).values()) == {"reviewing"} and seen["judge"] > 1:
            break
    assert seen["careful"] == 4, "each once, again after its failure, and after its reviewer's"
    assert seen["judge"] > 1


def test_a_dead_workers_places_are_free_when_its_leases_are(driver: Driver) -> None:
    limit(driver, work=2)
    driver.submit(fan(4))
    driver.claim()
    passed(driver)
    assert len(driver.claim()) == 2
    assert passed(driver)[1] == []
    expire_worker(driver.engine, "w1")
    driver.claim()
    assert len(passed(driver)[1]) == 2


def test_a_small_task_gets_a_place_before_a_large_one_gets_more(driver: Driver) -> None:
    limit(driver, work=4)
    driver.submit(fan(40))
    driver.claim()
    passed(driver)
    running = driver.claim()
    small = driver.submit([{"id": "small0"}, {"id": "small1"}])
    driver.claim()
    for each in running[:2]:
        driver.settle(each)
    assert passed(driver)[1] == ["small0", "small1"]
    assert {each.task_id for each in driver.claim()} == {small}


def test_no_large_task_keeps_its_place_for_ever(driver: Driver) -> None:
    """With as many large tasks as places, a small one that comes last gets its turn all the same."""
    limit(driver, work=2)
    for _ in range(2):
        driver.submit(fan(30))
    small = driver.submit([{"id": "small"}])
    driver.claim()
    for _ in range(15):
        passed(driver)
        for each in driver.claim():
            driver.settle(each)
        if driver.task(small)["state"] == "succeeded":
            break
    assert driver.task(small)["state"] == "succeeded", "it never had a turn"


def test_a_limit_that_is_changed_or_lifted(driver: Driver) -> None:
    limit(driver, work=1)
    driver.submit(fan(6))
    driver.claim()
    assert len(passed(driver)[1]) == 1
    limit(driver, work=3)
    assert len(passed(driver)[1]) == 2
    assert len(driver.claim()) == 3
    limit(driver, work=2)
    assert passed(driver)[1] == []
    assert violations(driver.engine) == [], "what ran before may end"
    apply(driver.engine, "default", Team(name="other", agents={"work": Agent(call="m:f", concurrency=7)}))
    limit(driver)
    assert len(passed(driver)[1]) == 3
    assert len(driver.claim()) == 3
    assert driver.query("select team_name, concurrency from rules") == [{"team_name": "other", "concurrency": 7}]


def test_what_waits_for_a_place_waits_for_a_pause_as_well(driver: Driver) -> None:
    limit(driver, work=2)
    task = driver.submit(fan(4))
    driver.claim()
    for target in (Target(team="plain"), Target(team="plain", agent="work"), Target(task_id=task)):
        pause(driver.engine, "default", target, *ME)
        assert passed(driver)[1] == []
        resume(driver.engine, "default", target, "me")
    assert len(passed(driver)[1]) == 2
    pause(driver.engine, "default", Target(task_id=task), *ME)
    assert driver.claim() == [], "a place does not help"
    resume(driver.engine, "default", Target(task_id=task), "me")
    passed(driver)
    driver.claim()
    assert len(passed(driver)[1]) <= 2
    assert len(driver.claim()) <= 2


def test_a_step_that_was_claimed_before_its_entry_was_released(driver: Driver) -> None:
    """While no rule is in force nobody looks at what is parked: what the relay finds there is left alone."""
    task = driver.submit(fan(1))
    refs = [StepRef(id=row["step_id"], epoch=row["epoch"]) for row in driver.ready()]
    pause(driver.engine, "default", Target(task_id=task), *ME)
    assert driver.claim() == []
    resume(driver.engine, "default", Target(task_id=task), "me")
    (taken,) = driver.claim_refs(refs)
    assert [found for found in violations(driver.engine) if found.kind == "safety"] == []
    assert passed(driver)[1] == []
    assert parked(driver) == []
    assert driver.settle(taken)[0]


def test_who_looks_at_a_step_and_who_gives_it_a_place_do_not_wait_for_each_other(driver: Driver) -> None:
    """Each locks several steps, in its own order: waiting would end in a deadlock."""
    limit(driver, work=1)
    driver.submit(fan(2))
    refs = [StepRef(id=row["step_id"], epoch=row["epoch"]) for row in driver.ready()]
    assert driver.claim() == []
    with transaction(driver.engine) as connection:
        assert begin_claim(connection, refs, worker="w2", lease_seconds=30)().assignments == []
        pool = ThreadPoolExecutor(1)
        place = pool.submit(passed, driver)
        done, _ = wait([place], 5)
    pool.shutdown()
    assert done, "the relay waited for the claim"
    assert len(place.result()[1]) == 1


def test_racing_claims_never_take_more_than_the_limit(driver: Driver) -> None:
    limit(driver, work=3)
    driver.submit(fan(30))
    refs = [StepRef(id=row["step_id"], epoch=row["epoch"]) for row in driver.ready()]
    stop = threading.Event()
    most: list[int] = []
    begun: list[str] = []

    def work(name: str) -> None:
        while not stop.is_set():
            taken = retrying(driver.engine, lambda connection: claim(connection, refs, worker=name, lease_seconds=30))
            begun.extend(each.key for each in taken)
            (row,) = driver.query("select count(*) as n from steps where lease_until is not null")
            most.append(row["n"])
            for each in taken:
                driver.settle(each)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(400):
            passed(driver)
            if len(begun) == 30:
                break
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    assert sorted(begun) == sorted(f"s{n}" for n in range(30)), "each once"
    assert max(most) <= 3
    assert parked(driver) == []


def test_a_resumption_and_a_new_version_leave_other_rules_alone(driver: Driver) -> None:
    one, other = driver.submit([{"id": "one"}]), driver.submit([{"id": "other"}])
    for target in (Target(task_id=one), Target(task_id=other), Target(team="plain"), Target(team="planned")):
        pause(driver.engine, "default", target, *ME)
    resume(driver.engine, "default", Target(task_id=one), "me")
    resume(driver.engine, "default", Target(team="plain"), "me")
    left = driver.query("select task_id, team_name from rules where ended_at is null")
    assert {(row["task_id"], row["team_name"]) for row in left} == {(other, None), (None, "planned")}
    assert keys(driver.claim()) == ["one"]

    pause(driver.engine, "default", Target(team="plain", agent="work"), *ME)
    for _ in range(2):
        limit(driver, judge=3)
    rules = driver.query("select agent, concurrency from rules where agent is not null and ended_at is null order by 1")
    assert [(row["agent"], row["concurrency"]) for row in rules] == [("judge", 3), ("work", 0)]
