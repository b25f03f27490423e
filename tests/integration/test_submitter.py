"""Submitting from many threads at once: who shares a transaction, who does not, and what each of them is told."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
import pytest
from sqlalchemy import Engine

from contracts.errors import InvalidInput, Unavailable
from contracts.plans import Plan, Step
from shared_state import keys, tasks, teams
from shared_state.engine import database_is_away
from shared_state.submitter import LARGE_STEPS, Submitter
from shared_state.tasks import Created, Submission, Submitted
from shared_state.teams_cache import TeamsCache

from .api_server import until
from .driver import PLANNED, Driver

LATE_SECONDS = 10.0
SMALL = Submission(team="planned")


class Crowd:
    """Callers with a thread each; `hold` has the first one's transaction wait while the others come."""

    def __init__(self, engine: Engine, url: str) -> None:
        self.driver = Driver(engine)
        self.published: list[tuple[int, int]] = []
        """Entries, and how many submissions they are of."""
        self.submitter = Submitter(lambda wakeups, count: self.published.append((len(wakeups), count)), TeamsCache())
        self._url = url
        self._threads = ThreadPoolExecutor(20)

    def submit(
        self, submission: Submission = SMALL, *, tenant: str = "default", traceparent: str | None = None
    ) -> "Future[Created]":
        submit = self.submitter.submit
        return self._threads.submit(submit, self.driver.engine, tenant, submission, traceparent=traceparent)

    def others(self, *submissions: Submission) -> "list[Future[Created]]":
        """One after the other: each waits for the first before the next comes."""
        callers = []
        for number, submission in enumerate(submissions, 1):
            callers.append(self.submit(submission))
            until(lambda wanted=number: self.submitter.waiting("default") == wanted)
        return callers

    @contextmanager
    def hold(self, tenant: str = "default") -> "Iterator[Future[Created]]":
        """The first caller's, whose transaction goes on when the block ends."""
        with self.lock("select from teams where tenant_id = %s for update", tenant):
            first = self.submit(tenant=tenant)
            until(self.held)
            yield first

    @contextmanager
    def lock(self, sql: LiteralString, *parameters: str) -> Iterator[None]:
        with psycopg.connect(self._url) as holder:
            holder.execute(sql, parameters)
            yield
            holder.rollback()

    def held(self) -> list[int]:
        """The database's processes that wait for a lock."""
        return [
            row["pid"] for row in self.driver.query("select pid from pg_stat_activity where wait_event_type = 'Lock'")
        ]

    def transactions(self) -> list[int]:
        """How many tasks each transaction has made, in order."""
        sql = "select count(*) as n from tasks group by xmin::text::bigint order by xmin::text::bigint"
        return [row["n"] for row in self.driver.query(sql)]


@pytest.fixture
def crowd(engine: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Crowd:
    monkeypatch.setattr("shared_state.tasks.TURN_SECONDS", LATE_SECONDS)  # a turn lasts as long as a test wants it to
    return Crowd(engine, database_url)


def test_alone_nobody_waits(crowd: Crowd) -> None:
    created = [crowd.submit().result(LATE_SECONDS) for _ in range(3)]
    assert len({each.task_id for each in created}) == 3
    assert crowd.transactions() == [1, 1, 1]
    assert crowd.published == [(1, 1)] * 3


def test_who_comes_while_another_is_written_is_written_with_the_others(crowd: Crowd) -> None:
    with crowd.hold() as first:
        others = crowd.others(*[SMALL] * 4)
    made = [each.result(LATE_SECONDS).task_id for each in (first, *others)]
    assert len(set(made)) == 5
    assert crowd.transactions() == [1, 4]
    assert crowd.published == [(1, 1), (4, 4)]
    assert crowd.submit().result(LATE_SECONDS), "the next one writes again"


def test_each_gets_its_own_answer(crowd: Crowd) -> None:
    keyed = Submission(team="planned", goal="a", idempotency_key="k")
    with crowd.hold() as first:
        one, unknown, again, other = crowd.others(
            keyed, Submission(team="unheard-of"), keyed, Submission(team="planned", goal="b", idempotency_key="k")
        )
    assert first.result(LATE_SECONDS).replayed is False
    task_id = one.result(LATE_SECONDS).task_id
    assert again.result(LATE_SECONDS) == Created(task_id, replayed=True)
    for refused, field in ((unknown, "team"), (other, "idempotency_key")):
        with pytest.raises(InvalidInput) as error:
            refused.result(LATE_SECONDS)
        assert error.value.field == field
    assert crowd.transactions() == [1, 1]


def test_each_keeps_its_own_trace(crowd: Crowd) -> None:
    traces = [f"00-{n:032x}-{n:016x}-01" for n in (1, 2, 3)]
    with crowd.hold():
        callers = [crowd.submit(traceparent=trace) for trace in traces]
        until(lambda: crowd.submitter.waiting("default") == 3)
    for caller, trace in zip(callers, traces, strict=True):
        assert crowd.driver.task(caller.result(LATE_SECONDS).task_id)["traceparent"] == trace


def test_one_that_cannot_be_stored_costs_the_others_nothing(crowd: Crowd) -> None:
    """The API refuses NUL in a text; who calls this directly is told by Postgres."""
    with crowd.hold():
        good, bad, fine = crowd.others(SMALL, Submission(team="planned", goal="\x00"), SMALL)
    assert good.result(LATE_SECONDS).task_id != fine.result(LATE_SECONDS).task_id
    with pytest.raises(psycopg.DataError):
        bad.result(LATE_SECONDS)
    assert crowd.transactions() == [1, 1, 1]


@contextmanager
def key_in_use(crowd: Crowd) -> Iterator[Submission]:
    """A submission whose key somebody else is just using: a process that is frozen in the middle, say."""
    with crowd.lock(
        "insert into idempotency_keys (tenant_id, key, digest, task_id) values ('default', 'k', '', gen_random_uuid())"
    ):
        yield Submission(team="planned", idempotency_key="k")


def test_one_that_waits_for_another_process_holds_nobody_up(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared_state.tasks.TURN_SECONDS", 0.1)
    with key_in_use(crowd) as keyed:
        waiting = crowd.submit(keyed)
        until(crowd.held)
        for other in [crowd.submit() for _ in range(3)]:
            assert other.result(LATE_SECONDS)
        assert not waiting.done()
    assert waiting.result(LATE_SECONDS)


def test_nor_does_one_among_several(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    with key_in_use(crowd) as keyed:
        with crowd.hold() as first:
            before, waiting, after = crowd.others(SMALL, keyed, SMALL)
            monkeypatch.setattr("shared_state.tasks.TURN_SECONDS", 0.1)
        for other in (first, before, after):
            assert other.result(LATE_SECONDS)
        assert not waiting.done()
    assert waiting.result(LATE_SECONDS)
    assert crowd.transactions() == [1, 1, 1, 1]


def test_one_that_postgres_has_no_room_for_costs_the_others_nothing(crowd: Crowd) -> None:
    """Together they may be larger than one statement can take (54000): that, too, is said as `Unavailable`."""
    crowd.driver.query(
        """create or replace function refuse() returns trigger language plpgsql as $$
        begin raise exception 'too large' using errcode = '54000'; end $$"""
    )
    crowd.driver.query(
        "create trigger refuse before insert on tasks for each row when (new.goal = 'large') execute function refuse()"
    )
    try:
        with crowd.hold():
            good, bad, fine = crowd.others(SMALL, Submission(team="planned", goal="large"), SMALL)
        assert good.result(LATE_SECONDS).task_id != fine.result(LATE_SECONDS).task_id
        with pytest.raises(Unavailable):
            bad.result(LATE_SECONDS)
    finally:
        crowd.driver.query("drop trigger refuse on tasks")


def test_who_was_written_alone_is_not_written_again(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []
    submit = tasks.submit

    def counting(engine: Engine, tenant: str, submissions: Sequence[Submission], **more: Any) -> Submitted:
        tries.append(len(submissions))
        return submit(engine, tenant, submissions, **more)

    monkeypatch.setattr("shared_state.tasks.submit", counting)
    with pytest.raises(psycopg.DataError):
        crowd.submit(Submission(team="planned", goal="\x00")).result(LATE_SECONDS)
    assert tries == [1]


def test_without_postgres_everybody_is_told_and_nothing_is_made_twice(crowd: Crowd) -> None:
    """Whether a COMMIT took place may be unknown then: only the caller may try again, by its key."""
    with key_in_use(crowd) as keyed:
        with crowd.hold() as first:
            others = crowd.others(SMALL, keyed)
        assert first.result(LATE_SECONDS)
        (waiting,) = until(crowd.held)
        crowd.driver.query("select pg_terminate_backend(%(pid)s)", pid=waiting)
        for each in others:
            with pytest.raises(Unavailable) as error:
                each.result(LATE_SECONDS)
            assert database_is_away(error.value)
    assert crowd.transactions() == [1]
    assert crowd.submit().result(LATE_SECONDS)


def test_a_large_plan_keeps_nobody_waiting(crowd: Crowd) -> None:
    steps = tuple(Step(id=f"s{number}", agent="work") for number in range(LARGE_STEPS + 1))
    with crowd.hold() as first:
        (small,) = crowd.others(SMALL)
        large = crowd.submit(Submission(team="plain", plan=Plan(steps=steps)))
        until(lambda: len(crowd.held()) == 2)
        assert crowd.submitter.waiting("default") == 1
    for each in (first, small, large):
        assert each.result(LATE_SECONDS)


def test_a_tenant_waits_for_no_other(crowd: Crowd) -> None:
    keys.create(crowd.driver.engine, "elsewhere", "a neighbour", "operator")
    teams.apply(crowd.driver.engine, "elsewhere", PLANNED)
    with crowd.hold() as first:
        assert crowd.submit(tenant="elsewhere").result(LATE_SECONDS)
        assert not first.done()
    assert first.result(LATE_SECONDS)


def test_so_many_share_a_transaction_and_no_more(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared_state.submitter.TOGETHER_LIMIT", 3)
    with crowd.hold() as first:
        others = crowd.others(*[SMALL] * 7)
    for each in (first, *others):
        assert each.result(LATE_SECONDS)
    assert crowd.transactions() == [1, 3, 3, 1]
