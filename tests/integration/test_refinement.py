"""The model and the real SQL are given the same random commands; after each of them every row must be the same.

A disagreement prints its seed and the shortest history found that still shows it. ORCHESTRATOR_TEST_HISTORIES=n plays
n histories instead of some, ORCHESTRATOR_TEST_SEED=n the one of that seed.
"""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import psycopg
import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from contracts.errors import Failure
from contracts.settlements import Accept, Ask, Bury
from contracts.teams import Role
from shared_state.verify import violations
from tests.conftest import empty_tables
from tests.integration.product import Derived, Product, Seen, canonical
from tests.model import commands as c
from tests.model.consequences import blamed, is_degraded, needs_left, task_state
from tests.model.histories import History
from tests.model.invariants import wrong, wrong_move
from tests.model.rows import Ref, Task, World, find
from tests.model.teams import PLANNED
from tests.model.transitions import Effect, apply

DEFAULT_HISTORIES = 40
HISTORIES = int(os.environ.get("ORCHESTRATOR_TEST_HISTORIES", "0"))
SEED = os.environ.get("ORCHESTRATOR_TEST_SEED")
LENGTH = 80
DEFAULT_SECONDS = 20.0
SHRINKING_SECONDS = float(os.environ.get("ORCHESTRATOR_TEST_SHRINKING_SECONDS", "45"))


class Disagreement(AssertionError):
    """Model and product differ; `commands` are those that led there."""

    def __init__(self, text: str, commands: Sequence[c.Command]) -> None:
        self.text = text
        self.commands = list(commands)
        super().__init__("\n".join([text, "after:", *map(c.tell, self.commands)]))


class Pair:
    """The model and the product, side by side."""

    def __init__(self, engine: Engine, database_url: str) -> None:
        empty_tables(database_url)
        self.product = Product(engine)
        self.world: World = ()
        self.played: list[c.Command] = []
        self.sent: set[Ref] = set()

    def play(self, command: c.Command) -> Effect:
        """One command on both sides. Raises `Disagreement`."""
        self.played.append(command)
        before = self.world
        self.world, effect = apply(before, command, PLANNED)
        try:
            seen = self.product.do(command)
        except (DBAPIError, psycopg.Error) as error:
            raise Disagreement(f"the product raised {error!r}", self.played) from error
        for text in (*self._check_answers(before, command, effect, seen), *self._check_rows(before)):
            raise Disagreement(text, self.played)
        self.sent |= effect.sent
        return effect

    def _check_answers(self, before: World, command: c.Command, effect: Effect, seen: Seen) -> Iterator[str]:
        if effect.refused != seen.refused:
            yield f"refused: the model says {effect.refused}, the product {seen.refused}"
        if effect.sent != seen.sent:
            yield f"sent: the model says {sorted(effect.sent)}, the product {sorted(seen.sent)}"
        counted = isinstance(seen.done, int)
        if seen.done is not None and (len(effect.done) if counted else effect.done) != seen.done:
            yield f"done: the model says {sorted(effect.done)}, the product {seen.done}"
        if isinstance(command, c.Claim):
            for ref in sorted(effect.done):
                yield from self._check_assignment(ref)

    def _check_assignment(self, ref: Ref) -> Iterator[str]:
        """What a claim hands to the worker."""
        task = find(self.world, ref.task)
        assert task is not None
        step, given = task.step(ref.key), self.product.assignments[ref]
        (attempt,) = [each for each in task.attempts if (each.key, each.epoch) == (ref.key, ref.epoch)]
        pending = [each.epoch for each in task.proposals if each.key == ref.key and each.state == "pending"]
        reviewing = attempt.role == Role.REVIEWER
        expected = {
            "agent": step.reviewer if reviewing else step.agent,
            "role": attempt.role,
            "attempt": attempt.number,
            "rejections": step.rejections,
            "questions": step.questions,
            "reviewer": None if reviewing else step.reviewer,
            "feedback": step.feedback,
            "inputs": {need: {"step": need, "epoch": epoch} for need, epoch in attempt.inputs},
            "proposal": {"step": ref.key, "epoch": pending[0]} if reviewing else None,
            "answers": sum(each.key == ref.key and each.state == "answered" for each in task.questions),
        }
        actual = {name: getattr(given, name) for name in expected}
        actual["feedback"] = given.feedback[0].code if given.feedback else None
        actual["answers"] = len(given.answers)
        if expected != actual:
            yield f"assignment of {ref}: the model says {expected}, the product {actual}"

    def _check_rows(self, before: World) -> Iterator[str]:
        observed = self.product.observe()
        if set(observed) != {task.name for task in self.world}:
            yield f"tasks: the model has {[task.name for task in self.world]}, the product {sorted(observed)}"
        for task in self.world:
            rows, derived = observed[task.name]
            yield from _differences(canonical(task), rows)
            yield from _check_derived(task, derived)
            yield from wrong(task)
            earlier = find(before, task.name)
            yield from wrong_move(earlier, task) if earlier else ()


def _differences(model: Task, product: Task) -> Iterator[str]:
    for name, ours, theirs in zip(Task._fields, model, product, strict=True):
        if ours != theirs:
            if isinstance(ours, tuple) and isinstance(theirs, tuple):
                only_ours, only_theirs = sorted({*ours} - {*theirs}), sorted({*theirs} - {*ours})
                yield f"{model.name}.{name}:\n  the model says   {only_ours}\n  the product says {only_theirs}"
            else:
                yield f"{model.name}.{name}: the model says {ours}, the product {theirs}"


def _check_derived(task: Task, derived: Derived) -> Iterator[str]:
    state = task_state(task)
    ended = state in ("succeeded", "failed", "cancelled")
    expected = Derived(
        state=state,
        step_count=len(task.steps),
        degraded=is_degraded(task) if ended else None,
        error=derived.error,
        needs_left={step.key: needs_left(task, step) for step in task.steps if step.state == "blocked"},
        inputs={
            (step.key, need): output.epoch
            for step in task.steps
            for need in step.needs
            for output in task.outputs
            if output.key == need
        },
    )
    if expected != derived:
        yield f"{task.name}:\n  the model says   {expected}\n  the product says {derived}"
    allowed: frozenset[tuple[str, str | None] | None]
    if task.stopped:
        allowed = frozenset({(task.stopped, None)})
    else:
        allowed = frozenset(blamed(task)) if state == "failed" else frozenset({None})
    if derived.error not in allowed:
        yield f"{task.name} ({state}) has the error {derived.error}; the model allows {sorted(map(str, allowed))}"


def play_history(engine: Engine, database_url: str, seed: int) -> int:
    """One whole history; returns how many commands changed something. Raises `Disagreement`, shrunk."""
    pair = Pair(engine, database_url)
    history = History(seed, PLANNED)
    changed = 0
    try:
        for _ in range(LENGTH):
            before = pair.world
            command = history.next(pair.world)
            history.note(command, pair.play(command), pair.world)
            changed += pair.world != before
    except Disagreement as found:
        smallest = shrink(engine, database_url, found)
        raise Disagreement(f"seed {seed}: {smallest.text}", smallest.commands) from None
    assert [found for found in violations(engine) if found.kind == "safety"] == [], f"seed {seed}"
    return changed


def shrink(engine: Engine, database_url: str, found: Disagreement) -> Disagreement:
    """Leave out commands, and parts of commands, as long as what is left still disagrees."""
    deadline = time.monotonic() + SHRINKING_SECONDS
    index = 0
    while index < len(found.commands) and time.monotonic() < deadline:
        for part in _parts(found.commands[index]):
            again = replay(engine, database_url, [*found.commands[:index], *part, *found.commands[index + 1 :]])
            if again is not None:
                found, index = again, max(0, index - 1)
                break
        else:
            index += 1
    return found


def _parts(command: c.Command) -> Iterator[list[c.Command]]:
    """What could stand in a command's place: nothing, or the command with one part less."""
    yield []
    if isinstance(command, c.Settle) and len(command.items) > 1:
        for n in range(len(command.items)):
            yield [c.Settle(command.items[:n] + command.items[n + 1 :])]
    if isinstance(command, c.Claim) and len(command.refs) > 1:
        for n in range(len(command.refs)):
            yield [replace(command, refs=command.refs[:n] + command.refs[n + 1 :])]


def replay(engine: Engine, database_url: str, commands: Sequence[c.Command]) -> Disagreement | None:
    pair = Pair(engine, database_url)
    try:
        for command in commands:
            if isinstance(command, c.Settle):
                command = c.Settle(tuple(item for item in command.items if item[0] in pair.product.assignments))
            if isinstance(command, c.Claim):
                command = replace(command, refs=tuple(ref for ref in command.refs if ref in pair.sent))
            pair.play(command)
    except Disagreement as found:
        return found
    except (KeyError, StopIteration):  # a command about something that was left out
        return None
    return None


def test_the_product_does_what_the_model_says(engine: Engine, database_url: str) -> None:
    seeds = [int(SEED)] if SEED else range(HISTORIES or DEFAULT_HISTORIES)
    started, changed, played = time.monotonic(), 0, 0
    for seed in seeds:
        if not HISTORIES and time.monotonic() - started > DEFAULT_SECONDS:
            break  # on a slow machine a few less; with a number given, all of them
        changed += play_history(engine, database_url, seed)
        played += 1
    seconds = time.monotonic() - started
    print(f"seeds 0..{played - 1}: {played * LENGTH} commands, {changed} of them changed something, {seconds:.1f} s")
    assert changed > played * LENGTH / 3


def test_what_a_person_answered_outlives_a_redrive(engine: Engine, database_url: str) -> None:
    pair = Pair(engine, database_url)
    at = [Ref("t1", "@plan", epoch) for epoch in range(5)]
    failure = Failure(code="agent.unable", text="no")
    for command in (
        c.Submit("t1", None),
        c.Claim((at[1],), "w1"),
        c.Settle(((at[1], Ask(text="?")),)),
        c.Answer(at[1]),
        c.Claim((at[2],), "w1"),
        c.Settle(((at[2], Bury(failure=failure)),)),
        c.Redrive((at[2],)),
        c.Claim((at[4],), "w1"),
    ):
        pair.play(command)
    assert len(pair.product.assignments[at[4]].answers) == 1


def test_a_disagreement_is_found_and_shrunk(engine: Engine, database_url: str) -> None:
    """The comparison itself: a row that somebody changes behind the model's back is seen at once."""
    pair = Pair(engine, database_url)
    history = History(1, PLANNED)
    for _ in range(20):
        command = history.next(pair.world)
        history.note(command, pair.play(command), pair.world)
    pair.product.query("update steps set attempt_count = attempt_count + 1")
    with pytest.raises(Disagreement, match="attempts"):
        pair.play(c.Sweep())
    wrong_order: list[c.Command] = [c.Submit("t1", None), c.Settle(((Ref("t1", "@plan", 1), Accept(output=1)),))]
    assert replay(engine, database_url, wrong_order) is None
    empty_tables(database_url)
