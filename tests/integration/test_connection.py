"""A transaction as one conversation: what it sends, when it waits, and what is left after an error."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import Engine

from contracts.errors import Unavailable
from shared_state import connection as connection_module
from shared_state import engine as engine_module
from shared_state.connection import Connection
from shared_state.engine import LostRace, make_engine, retrying, transaction
from shared_state.statements import query


@pytest.fixture
def one(engine: Engine) -> Iterator[Engine]:
    """A pool of one connection, so that what a transaction leaves behind meets the next one."""
    engine = make_engine(engine.url.render_as_string(hide_password=False), pool_size=1)
    with transaction(engine) as connection:
        query(connection, "create temporary table notes (id int primary key, text text)")
    yield engine
    engine.dispose()


def write(connection: Connection, id: int, text: str = "") -> None:
    connection.send("insert into notes values (%(id)s, %(text)s)", {"id": id, "text": text})


def do(engine: Engine, work: Callable[[Connection], None]) -> None:
    with transaction(engine) as connection:
        work(connection)


def written(engine: Engine) -> list[int]:
    with transaction(engine) as connection:
        return [row["id"] for row in query(connection, "select id from notes order by id")]


def test_what_nobody_reads_is_done_all_the_same(one: Engine) -> None:
    with transaction(one) as connection:
        write(connection, 1)
        write(connection, 2)
    assert written(one) == [1, 2]


def test_json_is_read_as_it_was_written_however_deep(one: Engine) -> None:
    deep: object = 0.1
    for _ in range(300):
        deep = [deep]
    for value in (deep, {"a": [1, -0.5, 10**30, 1e-7, None, True, "é \u2028 NaN"]}):
        with transaction(one) as connection:
            (row,) = query(connection, "select %(value)s::jsonb as value", value=json.dumps(value))
        assert row["value"] == value


def test_a_reply_can_be_read_after_the_commit(one: Engine) -> None:
    with transaction(one) as connection:
        first = connection.send("select 1 as a, null as b, %(id)s::uuid as c", {"id": None})
        second = connection.send("select unnest(array[1, 2]) as n", {})
    assert second.rows() == [{"n": 1}, {"n": 2}]
    assert first.rows() == [{"a": 1, "b": None, "c": None}]


def test_values_come_back_as_they_went(one: Engine) -> None:
    ids = [uuid4(), uuid4()]
    sql = """select %(ids)s::uuid[] as ids, %(texts)s::text[] as texts, %(flag)s::boolean as flag,
        %(real)s::float8 as real, %(raw)s::bytea as raw, %(json)s::jsonb as json, 'a%%' as percent,
        %(flag)s::boolean as again"""
    values = {"texts": ['a"b\\{},', None, "ü"], "flag": True, "real": 0.5, "raw": b"\x00\xff"}
    with transaction(one) as connection:
        (row,) = query(connection, sql, ids=ids, json='{"a": [1]}', **values)
    assert row == {"ids": ids, "json": {"a": [1]}, "percent": "a%", "again": True, **values}


def test_a_text_that_postgres_cannot_hold_is_refused_and_not_cut(one: Engine) -> None:
    with pytest.raises(psycopg.DataError), transaction(one) as connection:
        query(connection, "select %(text)s::text", text="before\x00after")
    assert written(one) == []


def test_an_error_nobody_waited_for_is_raised_at_the_end_and_undoes_everything(one: Engine) -> None:
    def work(connection: Connection) -> None:
        for id in (1, 1, 2):
            write(connection, id)

    with pytest.raises(psycopg.errors.UniqueViolation):
        do(one, work)
    assert written(one) == []


def test_after_an_error_nothing_more_is_answered(one: Engine) -> None:
    def work(connection: Connection) -> None:
        with pytest.raises(psycopg.errors.DivisionByZero):
            query(connection, "select 1 / %(n)s::int", n=0)
        query(connection, "select 1")

    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        do(one, work)
    assert written(one) == []


def test_an_error_swallowed_is_no_commit(one: Engine) -> None:
    def work(connection: Connection) -> None:
        write(connection, 1)
        with pytest.raises(psycopg.errors.DivisionByZero):
            query(connection, "select 1 / 0")

    with pytest.raises(psycopg.Error):
        do(one, work)
    assert written(one) == []


def test_a_statement_prepared_in_a_transaction_that_failed_works_in_the_next(one: Engine) -> None:
    def work(connection: Connection) -> None:
        connection.send("select 1 / 0", {})
        connection.send("select 5 as never_parsed_before", {})

    for _ in range(2):
        with pytest.raises(psycopg.errors.DivisionByZero):
            do(one, work)
    with transaction(one) as connection:
        assert query(connection, "select 5 as never_parsed_before") == [{"never_parsed_before": 5}]


def test_sql_that_does_not_parse_costs_only_its_transaction(one: Engine) -> None:
    for _ in range(2):
        with pytest.raises(psycopg.errors.SyntaxError), transaction(one) as connection:
            query(connection, "selec 1")
    assert written(one) == []


def test_an_exception_of_the_caller_undoes_what_was_sent(one: Engine) -> None:
    def work(connection: Connection) -> None:
        write(connection, 1)
        raise KeyError

    with pytest.raises(KeyError):
        do(one, work)
    assert written(one) == []


def test_more_statements_than_are_kept_prepared(one: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_PREPARED_LIMIT", 10)
    for n in range(30):
        with transaction(one) as connection:
            assert query(connection, f"select {n} as n, %(x)s::int as x", x=n) == [{"n": n, "x": n}]
    with transaction(one) as connection:
        (row,) = query(connection, "select count(*) as n from pg_prepared_statements")
    assert row["n"] <= 11


def test_much_in_both_directions_at_once(one: Engine) -> None:
    """Neither side may wait for the other to read first."""
    text = "x" * 1_000_000
    with transaction(one) as connection:
        replies = [connection.send("select %(text)s::text as text", {"text": text}) for _ in range(40)]
    assert all(reply.rows() == [{"text": text}] for reply in replies)


def test_more_than_the_socket_takes_at_once(one: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server says nothing before it has all of it: what is waited for is room to write."""
    monkeypatch.setattr(connection_module, "ANSWER_SECONDS", 10.0)
    with transaction(one) as connection:
        assert query(connection, "select length(%(text)s::text) as n", text="x" * 50_000_000) == [{"n": 50_000_000}]


def test_a_connection_that_was_cut_is_unavailable_and_then_replaced(one: Engine, engine: Engine) -> None:
    def work(connection: Connection) -> None:
        (row,) = query(connection, "select pg_backend_pid() as pid")
        with transaction(engine) as other:
            query(other, "select pg_terminate_backend(%(pid)s, 5000)", pid=row["pid"])
        query(connection, "select 1")

    with pytest.raises(Unavailable):
        do(one, work)
    with transaction(one) as connection:
        assert query(connection, "select 1 as n") == [{"n": 1}]


def test_a_server_that_does_not_answer_is_unavailable(one: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with transaction(one) as connection:
        (row,) = query(connection, "select pg_backend_pid() as pid")
    monkeypatch.setattr(connection_module, "ANSWER_SECONDS", 0.3)
    os.kill(row["pid"], signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(Unavailable), transaction(one) as connection:
            query(connection, "select 1")
        assert time.monotonic() - started < 10
    finally:
        os.kill(row["pid"], signal.SIGCONT)
    with transaction(one) as connection:
        assert query(connection, "select 1 as n") == [{"n": 1}]


def test_a_race_that_is_lost_again_and_again_is_unavailable(one: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def work(connection: Connection) -> None:
        tries.append(1)
        raise LostRace

    monkeypatch.setattr(engine_module, "_ATTEMPTS", 3)
    with pytest.raises(Unavailable):
        retrying(one, work)
    assert len(tries) == 3


def test_the_victim_of_a_deadlock_tries_again(one: Engine, engine: Engine) -> None:
    with transaction(engine) as connection:
        query(connection, "create table pair (id int primary key, n int)")
        query(connection, "insert into pair values (1, 0), (2, 0)")
    barrier = threading.Barrier(2, timeout=5)
    met: list[bool] = []

    def change(connection: Connection, first: int, second: int) -> None:
        query(connection, "update pair set n = n + 1 where id = %(id)s", id=first)
        if len(met) < 2:
            met.append(True)
            barrier.wait()
        query(connection, "update pair set n = n + 1 where id = %(id)s", id=second)

    other = threading.Thread(target=lambda: retrying(engine, lambda connection: change(connection, 2, 1)))
    other.start()
    retrying(one, lambda connection: change(connection, 1, 2))
    other.join()
    with transaction(engine) as connection:
        assert query(connection, "select n from pair") == [{"n": 2}, {"n": 2}]
        query(connection, "drop table pair")
