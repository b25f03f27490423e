"""The marks of the guards, and how one guard is taken away."""

from importlib.resources import files

import pytest

from tests.mutation.checks import CHECKS
from tests.mutation.guards import guards, guards_of, without
from tests.mutation.survivors import EXPLAINED

SQL = """select 1
from steps s
join given g on g.id = s.id
    and g.epoch = s.epoch -- guard: epoch
where s.state = 'running' -- guard: running
    and not exists ( -- guard: alone
        select 1 from steps o
        where o.id = (s.id) -- guard: inner
    )
for update of s -- guard: row lock
"""


def test_guards_are_found_by_their_marks() -> None:
    assert [guard.name for guard in guards_of("x", SQL)] == ["epoch", "running", "alone", "inner", "row lock"]


@pytest.mark.parametrize(
    ("name", "gone", "left"),
    [
        ("epoch", "g.epoch", "join given g on g.id = s.id\nwhere s.state"),
        ("running", "'running'", "where true\n    and not exists"),
        ("alone", "not exists", "-- guard: running\nfor update"),
        ("inner", "(s.id)", "from steps o\n        where true\n    )"),
        ("row lock", "for update", "    )\n"),
    ],
)
def test_a_guard_is_taken_away_whole(name: str, gone: str, left: str) -> None:
    changed = without(SQL, name)
    assert gone not in changed
    assert left in changed


def test_an_unknown_guard_is_refused() -> None:
    with pytest.raises(KeyError):
        without(SQL, "nothing")


def test_every_guard_of_the_product_has_its_own_name_and_can_be_taken_away() -> None:
    found = guards()
    assert len({str(guard) for guard in found}) == len(found)
    assert len(found) > 40
    for guard in found:
        sql = files("shared_state").joinpath("sql", f"{guard.statement}.sql").read_text(encoding="utf-8")
        assert without(sql, guard.name) != sql


@pytest.mark.parametrize("name", CHECKS)
def test_every_check_is_where_the_table_says(name: str) -> None:
    package, _, module = CHECKS[name].module.rpartition(".")
    source = files(package).joinpath(f"{module}.py").read_text(encoding="utf-8")
    changed = CHECKS[name].mutated(source)
    assert changed != source
    compile(changed, name, "exec")


def test_only_guards_that_exist_are_explained() -> None:
    assert set(EXPLAINED) <= {str(guard) for guard in guards()} | set(CHECKS)
