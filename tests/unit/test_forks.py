"""What a fork shares: what is accepted and rests on nothing that runs anew."""

from collections.abc import Mapping
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from contracts.teams import Role
from shared_state.forks import Origin, copied, shared


def steps(needs: Mapping[str, str], *, not_accepted: str = "", planner: str = "") -> dict[str, Origin]:
    """By key, a letter each: `needs` has the letters that each needs."""
    ids = {key: uuid4() for key in needs}
    return {
        key: Origin(
            id=ids[key],
            key=key,
            role=Role.PLANNER if key in planner else Role.EXECUTOR,
            agent="work",
            accepted=key not in not_accepted,
            needs=[ids[need] for need in needs[key]],
        )
        for key in needs
    }


def kept(made: Mapping[str, Origin], at: str) -> str:
    found = shared(list(made.values()), made[at])
    return "".join(key for key, step in made.items() if step.id in found)


DIAMOND = {"a": "", "b": "a", "c": "a", "d": "bc", "e": ""}


def test_what_does_not_rest_on_the_step_is_shared() -> None:
    assert kept(steps(DIAMOND), "b") == "ace"
    assert kept(steps(DIAMOND), "a") == "e"
    assert kept(steps(DIAMOND), "d") == "abce"


def test_what_is_not_accepted_runs_anew_and_so_does_what_needs_it() -> None:
    assert kept(steps(DIAMOND, not_accepted="c"), "e") == "ab"


def test_a_planner_starts_over_alone() -> None:
    made = steps({"p": "", **DIAMOND}, planner="p")
    everything = list(made.values())
    assert copied(everything, made["p"]) == [made["p"]]
    assert copied(everything, made["a"]) == everything
    assert kept(made, "a") == "pe"


@given(st.data())
def test_nothing_shared_needs_what_is_not(data: st.DataObject) -> None:
    keys = "abcdefgh"
    needs = {key: "".join(data.draw(st.sets(st.sampled_from(keys[:i])))) if i else "" for i, key in enumerate(keys)}
    made = steps(needs, not_accepted="".join(data.draw(st.sets(st.sampled_from(keys)))))
    at = data.draw(st.sampled_from(keys))
    found: set[UUID] = shared(list(made.values()), made[at])
    assert made[at].id not in found
    for step in made.values():
        rests = step.accepted and step.key != at and set(step.needs) <= found
        assert (step.id in found) == rests
