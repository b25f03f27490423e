"""`python -m tests.faults.soak --hours N`: one house at half load for hours, random faults all the time.

Prints, while it runs and at the end, what leaks would show in: the memory of a worker and of a loops process that no
fault touches, and dead rows in the tables. Exit code 1 when anything was lost, doubled or violated.
"""

import argparse
import logging
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from rich.console import Console

from tests.faults import tally
from tests.faults.row import Row
from tests.faults.rows import all_rows
from tests.faults.run import seed_of
from tests.faults.scene import Scene
from tests.faults.servers import Servers
from tests.faults.staff import Member

FAULTS = ("F01", "F01-unseen", "F11", "F12", "F14", "F16", "F17", "F18", "F26", "F27", "F29")
"""Rows that judge nothing but what they did themselves, and ask for no house of their own."""
SLICE_SECONDS, CALM_SECONDS = 60.0, 20.0
SETTLED_SHARE = 0.2
"""Of the time: memory grows while caches fill, and is not counted."""
HOUSE = Row(
    "soak",
    "random faults",
    "nothing is lost, memory and tables stay level",
    inject=lambda _scene: None,
    workers=6,
    slots=12,
    proxied=frozenset({"postgres"}),
    rate=3,
    rest_seconds=120,
)
Sample = tuple[float, float]
"""Seconds since the start, MiB."""


def main() -> int:
    options = read_options()
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)
    console = Console()
    console.print(f"seed {options.seed}: {options.hours:g} hours", highlight=False)
    folder = Path(tempfile.mkdtemp(prefix="orchestrator-soak-"))
    servers = Servers(folder / "servers")
    try:
        servers.start()
        (folder / "house").mkdir()
        with Scene(HOUSE, servers, folder / "house", seed_of(options.seed, HOUSE), 0.0) as scene:
            return soak(scene, options.hours * 3600, console)
    finally:
        servers.stop()
        shutil.rmtree(folder, ignore_errors=True)


def soak(scene: Scene, seconds: float, console: Console) -> int:
    rows = [row for row in all_rows() if row.name in FAULTS and row.ablation is None]
    witnesses = [
        scene.staff.hire(Member("witness", ("workers",), scene.settings, spared=True)),
        scene.hire_loops("witness-loops"),
    ]
    samples: dict[str, list[Sample]] = {member.slot: [] for member in witnesses}
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        row = scene.chance.choice(rows)
        _inject(scene, row, min(SLICE_SECONDS, seconds - passed))
        for member in witnesses:
            if member.pid is not None:
                mebibytes = psutil.Process(member.pid).memory_info().rss / 2**20
                samples[member.slot].append((time.monotonic() - began, mebibytes))
        memory = ", ".join(f"{slot} {each[-1][1]:.0f} MiB" for slot, each in samples.items() if each)
        console.print(
            f"{(time.monotonic() - began) / 60:6.1f} min  {row.name:<11} {len(scene.load.accepted())} tasks; {memory}",
            highlight=False,
        )
    return _report(scene, samples, console)


def _inject(scene: Scene, row: Row, seconds: float) -> None:
    """One slice of one fault, then a while without any."""
    scene.go_on(seconds)
    try:
        row.inject(scene)
    except Exception as error:
        scene.problem(f"{row.name} broke off: {type(error).__name__}: {error}")
    scene.staff.supervised = True
    scene.heal()
    scene.go_on(CALM_SECONDS)
    scene.pause(CALM_SECONDS)


def _report(scene: Scene, samples: dict[str, list[Sample]], console: Console) -> int:
    scene.heal()
    scene.come_to_rest()
    scene.looks.stop()
    scene.looks.final()
    counts = tally.count(scene.url, scene.load.orders, scene.ledger, scene.staff.kills)
    for slot, each in samples.items():
        console.print(f"memory of {slot}: {slope(each):+.1f} % an hour", highlight=False)
    for row in scene.query(
        """select relname, n_live_tup, n_dead_tup, pg_total_relation_size(relid) / 1024 as kib
        from pg_stat_user_tables where n_live_tup + n_dead_tup > 0 order by 4 desc limit 8"""
    ):
        console.print("{relname:<14} {kib:>9} KiB, {n_live_tup} rows, {n_dead_tup} dead".format(**row), highlight=False)
    injected = ", ".join(f"{count} {what}" for what, count in scene.counts.items())
    console.print(f"injected: {injected}", highlight=False)
    wrong = [
        f"{number} {what}"
        for number, what in (
            (counts.lost, "tasks never ended"),
            (counts.ended_otherwise, "tasks ended otherwise than they should"),
            (counts.double_commits, "double commits"),
            (counts.zombie_commits, "zombie commits"),
            (len(scene.looks.found), "violations"),
        )
        if number
    ]
    wrong += scene.problems
    console.print(f"{counts.tasks} tasks, {counts.commits} commits, {scene.looks.count} looks: ", end="")
    console.print("; ".join(wrong) or "nothing lost, nothing twice, nothing violated", highlight=False, markup=False)
    return 1 if wrong else 0


def slope(samples: Sequence[Sample]) -> float:
    """Per cent an hour, by least squares over what follows the first part."""
    used = list(samples)[int(len(samples) * SETTLED_SHARE) :]
    if len(used) < 2:
        return 0.0
    mean_x = sum(at for at, _ in used) / len(used)
    mean_y = sum(size for _, size in used) / len(used)
    spread = sum((at - mean_x) ** 2 for at, _ in used)
    per_second = sum((at - mean_x) * (size - mean_y) for at, size in used) / spread if spread else 0.0
    return per_second * 3600 / mean_y * 100


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0, help="how long (%(default)s)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of all chance (a new one each run)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
