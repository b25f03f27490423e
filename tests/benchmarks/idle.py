"""`python -m tests.benchmarks.idle`: what `orchestrator dev` costs while nothing is to be done, by process.

The mean share of one core over two minutes, after a first task and a rest; memory as the proportional set size.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.acceptance.dev_process import Dev
from tests.benchmarks.document import Document
from tests.benchmarks.measure import machine, memory_of_trees, tree_seconds
from tests.benchmarks.sheet import Sheet, print_sheets

SECONDS = 120.0
REST_SECONDS = 20.0
"""After the start, before it counts: the inspector has looked once, autovacuum has seen the new tables."""
ECHO = {"steps": [{"id": "echo", "agent": "echo", "input": {"text": "x"}}]}
LIMIT_PERCENT = 6.0
SUPERVISOR = "dev (supervisor)"


def measure(dev: Dev, seconds: float) -> list[dict[str, Any]]:
    """One row a process: its share of a core in percent, and its memory; a part's children count with it."""
    pids = {part["name"]: int(part["pid"]) for part in dev.record()["parts"] if part["pid"]}
    before = {name: tree_seconds(pid) for name, pid in pids.items()}
    before_all, started = tree_seconds(dev.process.pid), time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - started
    spent = {name: tree_seconds(pid) - before[name] for name, pid in pids.items()}
    spent_all = tree_seconds(dev.process.pid) - before_all
    memory = memory_of_trees({name: [pid] for name, pid in {**pids, "all": dev.process.pid}.items()})
    own = memory["all"].pss_bytes - sum(memory[name].pss_bytes for name in pids)
    rows = [_row(name, spent[name], passed, memory[name].pss_bytes) for name in pids]
    rows.append(_row(SUPERVISOR, spent_all - sum(spent.values()), passed, own))
    rows.sort(key=lambda row: -row["percent"])
    return [*rows, _row("all", spent_all, passed, memory["all"].pss_bytes)]


def _row(name: str, cpu: float, passed: float, memory: int) -> dict[str, Any]:
    return {"process": name, "percent": 100 * cpu / passed, "memory_mib": memory / 2**20}


def sheet(rows: list[dict[str, Any]]) -> Sheet:
    made = Sheet("An idle dev server", ("process", "% of one core", "MiB"), names=1)
    for row in rows:
        made.add(row["process"], f"{row['percent']:.2f}", f"{row['memory_mib']:.0f}")
    return made


def main() -> int:
    options = read_options()
    console = Console() if sys.stdout.isatty() else Console(width=100)
    document = Document("idle")
    folder = Path(tempfile.mkdtemp(prefix="orchestrator-idle-"))
    with Dev(folder / "data", "--port", "0") as dev:
        with dev.client() as client:
            client.wait(client.submit("diagnostics", plan=ECHO)["id"], 60)
        time.sleep(options.rest)
        rows = measure(dev, options.seconds)
    shutil.rmtree(folder, ignore_errors=True)
    total = rows[-1]
    summary = {"idle_percent": total["percent"], "idle_memory_mib": total["memory_mib"]}
    document.write(options.output, machine=machine(), rows=rows, summary=summary)
    print_sheets(console, [sheet(rows)])
    return 0 if total["percent"] <= LIMIT_PERCENT else 1


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.idle", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long to measure (%(default)s)")
    parser.add_argument("--rest", type=float, default=REST_SECONDS, help="how long to wait before (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("build/idle.json"), help="%(default)s")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
