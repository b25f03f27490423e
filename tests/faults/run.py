"""Run rows one after the other: whatever one does, the next has its turn."""

import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.faults import tally
from tests.faults.result import Result, percentile
from tests.faults.row import Row
from tests.faults.scene import Scene
from tests.faults.servers import Servers

EXTRA_SECONDS = 240.0
"""How much longer than its time a row may take before it is given up as hung."""

AGAIN_SECONDS = 60.0
"""Cleaning up may hang as well."""


class Hung(Exception):
    pass


def run_row(row: Row, servers: Servers, folder: Path, seed: int, seconds: float) -> Result:
    """Never raises but for an interrupt: what goes wrong in the row itself is a problem of the row."""
    result = Result(row.name, row.fault, row.holds, seed, ablation=row.ablation)
    result.skipped = row.permitted()
    if result.skipped is not None:
        return result
    began = time.monotonic()
    try:
        folder.mkdir(parents=True)
        with _limited(seconds + EXTRA_SECONDS), Scene(row, servers, folder, seed, seconds) as scene:
            _play(row, scene, result)
    except Exception as error:
        result.broken = True
        where = traceback.extract_tb(error.__traceback__)[-1]
        result.problems.append(f"the row broke off: {type(error).__name__}: {error} ({Path(where.filename).name})")
        _keep_traceback(folder)
    result.seconds = time.monotonic() - began
    return result


def seed_of(seed: int, row: Row) -> int:
    """Each row draws from its own numbers, whichever other rows run."""
    return random.Random(f"{seed} {row.name} {row.ablation}").getrandbits(32)


def run_rows(
    rows: Sequence[tuple[Row, float]], folder: Path, seed: int, done: Callable[[Result], None]
) -> list[Result]:
    """Each row with its seconds, on one pair of servers."""
    servers = Servers(folder / "servers")
    results = []
    try:
        servers.start()
        for number, (row, seconds) in enumerate(rows):
            result = run_row(row, servers, folder / f"{number}-{row.name}", seed_of(seed, row), seconds)
            results.append(result)
            done(result)
    finally:
        servers.stop()
    return results


def _play(row: Row, scene: Scene, result: Result) -> None:
    try:
        row.inject(scene)
    except Exception as error:
        scene.problem(f"the injection broke off: {type(error).__name__}: {error}")
        _keep_traceback(scene.folder)
    scene.heal()
    result.rest_seconds = scene.come_to_rest()
    scene.looks.stop()
    final = scene.looks.final()
    result.tally = tally.count(scene.url, scene.load.orders, scene.ledger, scene.staff.kills)
    result.injected, result.facts = dict(scene.counts), dict(scene.facts)
    result.looks, result.missed_looks = scene.looks.count, scene.looks.missed
    result.violations = len(scene.looks.found)
    result.problems = [*scene.problems, *_problems(row, result)]
    result.problems += [f"submitting raised {text}" for text in dict.fromkeys(scene.load.broken)]
    result.problems += [f"violated: {text}" for text in [*scene.looks.found][:5]]
    result.problems += [f"at the end: {each.invariant} {each.text}" for each in final[:3] if each.kind == "liveness"]


def _keep_traceback(folder: Path) -> None:
    with suppress(OSError), (folder / "traceback.txt").open("a", encoding="utf-8") as stream:
        stream.write(traceback.format_exc())


def _problems(row: Row, result: Result) -> list[str]:
    counts = result.tally
    found = [
        f"{number} {what}"
        for number, what in (
            (counts.lost, "tasks never ended"),
            (counts.ended_otherwise, "tasks ended otherwise than they should"),
            (counts.double_commits, "double commits"),
            (counts.zombie_commits, "zombie commits"),
        )
        if number
    ]
    for times, target, what in (
        (counts.recoveries_seen, row.seen_target, "seen deaths"),
        (counts.recoveries_unseen, row.unseen_target, "unseen deaths"),
    ):
        p99 = percentile(times, 0.99)
        if target is not None and p99 is None:
            found.append(f"no step was interrupted by {what}")
        elif target is not None and p99 is not None and p99 > target:
            found.append(f"recovery p99 of {what} is {p99:.2f} s, more than {target:g} s")
    if not sum(result.injected.values()):
        found.append("nothing was injected")
    if not counts.tasks:
        found.append("no task was accepted")
    return found


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """A row that hangs must not hang those after it. Only in the main thread."""

    def give_up(*_: object) -> None:
        raise Hung(f"it did not end within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
