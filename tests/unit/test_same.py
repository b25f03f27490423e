"""Cache keys by identity."""

from contracts.same import Same


def test_only_the_very_same_object_is_the_same() -> None:
    schema = {"type": "object"}
    known = {Same(schema): "known"}
    assert known[Same(schema)] == "known"
    assert Same(dict(schema)) not in known


def test_it_keeps_its_object_so_that_no_other_takes_its_place() -> None:
    known = {Same({"n": n}) for n in range(100)}
    assert not any(Same({"n": n}) in known for n in range(100))
