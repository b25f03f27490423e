"""Artifact collection: what nothing refers to goes after its time, and never what something refers to."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine

from contracts.errors import NotFound, Unavailable
from contracts.settlements import Accept
from shared_state import collect, keys
from shared_state.artifacts import ArtifactStore, DirectoryBodies, open_bodies
from shared_state.collect import collect_artifacts
from shared_state.engine import transaction
from shared_state.prune import prune
from shared_state.statements import query

from .driver import Driver
from .test_artifacts import ObjectServer, objects, url  # noqa: F401 - fixtures

DAYS = 7.0


@pytest.fixture
def driver(engine: Engine) -> Driver:
    return Driver(engine)


def age(engine: Engine, days: float = 30.0) -> None:
    """As if everything had been put so long ago."""
    with transaction(engine) as connection:
        query(connection, "update artifacts set created_at = created_at - make_interval(secs => %(s)s)", s=days * 86400)


def kept(engine: Engine) -> set[str]:
    with transaction(engine) as connection:
        return {row["sha256"] for row in query(connection, "select sha256 from artifacts")}


def test_what_nothing_refers_to_goes_with_its_bytes_after_the_time_of_grace(engine: Engine, url: str) -> None:  # noqa: F811
    bodies = open_bodies(url)
    store = ArtifactStore(engine, "default", bodies)
    ref = store.put(b"of a task long gone")
    assert collect_artifacts(engine, bodies, grace_days=DAYS) == 0, "it was put just now"
    age(engine)
    assert collect_artifacts(engine, bodies, grace_days=DAYS) == 1
    with pytest.raises(NotFound):
        store.get(ref)
    if bodies is not None:
        assert not bodies.has(f"default/{ref.sha256[:2]}/{ref.sha256}")
    again = store.put(b"of a task long gone")
    assert store.get(again) == b"of a task long gone"


def test_what_any_row_refers_to_stays_until_the_row_is_pruned(driver: Driver, engine: Engine) -> None:
    store = ArtifactStore(engine, "default", None)
    task_id = driver.submit([{"id": "a"}])
    refs = {
        place: store.put(place.encode()).sha256
        for place in ("tasks.input", "steps.input", "outputs.body", "attempts.verdicts", "events.data", "nowhere")
    }
    (assignment,) = driver.claim()
    driver.settle(assignment, Accept(output={"made": {"sha256": refs["outputs.body"], "size_bytes": 1}}))
    with transaction(engine) as connection:
        for table, column in [place.split(".") for place in refs if "." in place and place != "outputs.body"]:
            value = json.dumps({"deep": [{"in": f"artifact:{refs[f'{table}.{column}']}."}]})
            which = "id" if table == "tasks" else "task_id"
            query(
                connection, f"update {table} set {column} = %(value)s where {which} = %(id)s", value=value, id=task_id
            )
    age(engine)
    assert collect_artifacts(engine, None, grace_days=DAYS) == 1
    assert kept(engine) == set(refs.values()) - {refs["nowhere"]}
    with transaction(engine) as connection:
        query(connection, "update tasks set finished_at = finished_at - interval '1 year'")
    assert prune(engine, retention_days=1)["tasks"] == 1
    assert collect_artifacts(engine, None, grace_days=DAYS) == len(refs) - 1
    assert kept(engine) == set()


def test_a_reference_counts_for_its_own_tenant_only(driver: Driver, engine: Engine) -> None:
    keys.create(engine, "other", "k", "admin")
    ref = ArtifactStore(engine, "default", None).put(b"x")
    ArtifactStore(engine, "other", None).put(b"x")
    task_id = driver.submit([{"id": "a"}])
    with transaction(engine) as connection:
        query(connection, "update tasks set input = %(v)s where id = %(id)s", v=json.dumps(ref.sha256), id=task_id)
    age(engine)
    assert collect.unreferenced(engine, grace_days=DAYS) == [("other", ref.sha256)]


def test_every_table_with_a_tenant_is_looked_through(engine: Engine) -> None:
    """Also one that a later schema brings along."""
    with transaction(engine) as connection:
        query(connection, "create table journal_of_later (tenant_id text, request_sha256 text, body jsonb)")
    try:
        store = ArtifactStore(engine, "default", None)
        named, told = store.put(b"named"), store.put(b"told")
        with transaction(engine) as connection:
            query(
                connection,
                "insert into journal_of_later values ('default', %(named)s, jsonb_build_object('a', %(told)s::text))",
                named=named.sha256,
                told=told.sha256,
            )
        age(engine)
        assert collect_artifacts(engine, None, grace_days=DAYS) == 0
    finally:
        with transaction(engine) as connection:
            query(connection, "drop table journal_of_later")


def test_bytes_put_again_are_as_good_as_new(engine: Engine, url: str) -> None:  # noqa: F811
    """An attempt that puts what was put long ago will name it in an output that nobody has yet."""
    bodies = open_bodies(url)
    store = ArtifactStore(engine, "default", bodies)
    store.put(b"again")
    age(engine)
    found = collect.unreferenced(engine, grace_days=DAYS)
    assert len(found) == 1
    ref = store.put(b"again")
    assert collect_artifacts(engine, bodies, grace_days=DAYS) == 0
    assert store.get(ref) == b"again"


def test_a_put_between_the_look_and_the_removal_wins(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore(engine, "default", None)
    ref = store.put(b"again")
    age(engine)
    look = collect.unreferenced

    def look_then_put(*arguments: object, **options: float) -> list[collect.Candidate]:
        found = look(engine, **options)
        store.put(b"again")
        return found

    monkeypatch.setattr(collect, "unreferenced", look_then_put)
    assert collect_artifacts(engine, None, grace_days=DAYS) == 0
    assert store.get(ref) == b"again"


class Held(DirectoryBodies):
    """A store whose `remove` tells that it has begun, and goes on when it may."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.begun, self.may_go_on = threading.Event(), threading.Event()
        self.fails = False

    def remove(self, names: object) -> None:
        self.begun.set()
        assert self.may_go_on.wait(20)
        if self.fails:
            raise OSError("the store is away")
        super().remove(names)  # type: ignore[arg-type]


def in_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    return thread


def test_a_put_while_the_bytes_are_being_removed_leaves_them_whole(
    engine: Engine, database_url: str, tmp_path: Path
) -> None:
    """The put waits for the removal, finds that nothing is left, and writes the bytes anew."""
    bodies = Held(tmp_path)
    store = ArtifactStore(engine, "default", bodies)
    ref = store.put(b"again")
    age(engine)
    collecting = in_thread(lambda: collect_artifacts(engine, bodies, grace_days=DAYS))
    assert bodies.begun.wait(20)
    putting = in_thread(lambda: store.put(b"again"))
    with psycopg.connect(database_url, autocommit=True) as connection:
        waiting = (
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        )
        while connection.execute(waiting).fetchone() == (0,):
            assert putting.is_alive(), "it did not wait"
    bodies.may_go_on.set()
    putting.join(20)
    collecting.join(20)
    assert store.get(ref) == b"again"


def test_a_store_that_does_not_remove_keeps_the_rows(engine: Engine, tmp_path: Path) -> None:
    bodies = Held(tmp_path)
    bodies.fails = True
    bodies.may_go_on.set()
    store = ArtifactStore(engine, "default", bodies)
    ref = store.put(b"x")
    age(engine)
    with pytest.raises(Unavailable):
        collect_artifacts(engine, bodies, grace_days=DAYS)
    assert kept(engine) == {ref.sha256}
    bodies.fails = False
    assert collect_artifacts(engine, bodies, grace_days=DAYS) == 1


def test_bytes_that_a_crash_took_from_under_their_row_are_written_anew(engine: Engine, tmp_path: Path) -> None:
    """Removed, and the collector died before its COMMIT: the row is there, the bytes are not."""
    bodies = DirectoryBodies(tmp_path)
    store = ArtifactStore(engine, "default", bodies)
    ref = store.put(b"x")
    bodies.remove([f"default/{ref.sha256[:2]}/{ref.sha256}"])
    assert store.get(store.put(b"x")) == b"x"


def test_what_lies_in_another_store_is_left_alone(engine: Engine, tmp_path: Path) -> None:
    ArtifactStore(engine, "default", DirectoryBodies(tmp_path)).put(b"x")
    age(engine)
    assert collect_artifacts(engine, None, grace_days=DAYS) == 0
    assert len(kept(engine)) == 1
