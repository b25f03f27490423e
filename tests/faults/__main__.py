"""`python -m tests.faults`: break everything in every way, count what is lost, write build/faults.json.

Exit code 0 when every row held and every row with a guard off failed, 1 otherwise, 2 for bad use.
"""

import argparse
import json
import logging
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tests.faults.document import fill, make_document, write
from tests.faults.report import print_report, print_row
from tests.faults.result import Result
from tests.faults.row import Row
from tests.faults.rows import all_rows, chosen
from tests.faults.run import run_rows
from tests.faults.scene import KILLS, MASSACRES, RESTARTS, WIPES

WANTED = {KILLS: 1000, WIPES: 50, f"{RESTARTS} and {MASSACRES}": 100}
"""Faults of a whole run, by their names in the totals."""
OVERHEAD_SECONDS = 9.0
"""What a row takes besides its own time: starting the house, coming to rest, the last look."""


def main() -> int:
    options = read_options()
    try:
        rows = chosen(options.rows.split(",")) if options.rows else all_rows()
    except KeyError as error:
        print(f"faults: there is no row {error}; --list shows them", file=sys.stderr)
        return 2
    wanted = {None: (True, False), "too": (True, True), "only": (False, True)}[options.ablation]
    rows = [row for row in rows if wanted[row.ablation is not None]]
    if options.list:
        for row in rows:
            off = f", without the {row.ablation}" if row.ablation else ""
            print(f"{row.name:<12} {row.seconds:>4.0f} s  {row.fault}{off}")
        return 0
    return run(options, rows)


def run(options: argparse.Namespace, rows: list[Row]) -> int:
    console = Console()
    # What breaks here is meant: the driver need not complain, nor the product where it runs in this process.
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    planned = plan_times(rows, options.minutes, options.seconds)
    total = sum(seconds + OVERHEAD_SECONDS for _, seconds in planned)
    console.print(f"seed {options.seed}: {len(rows)} rows, about {total / 60:.0f} minutes", highlight=False)
    folder = Path(tempfile.mkdtemp(prefix="orchestrator-faults-"))
    began, results = time.time(), list[Result]()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            bar = progress.add_task("rows", total=len(planned))

            def done(result: Result) -> None:
                progress.update(bar, advance=1, description=f"rows, last {result.name}")
                print_row(progress.console, result)

            results = run_rows(planned, folder, options.seed, done)
    finally:
        if options.keep or not results or not all(result.fine for result in results):
            console.print(f"logs: {folder}", highlight=False)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if options.onto is not None:
        results = merge(options.onto, results)
    document = make_document(results, seed=options.seed, began=began, scope=scope(options))
    print_report(console, document)
    write(options.output, document)
    if options.document is not None:
        fill(options.document, document)
    few = too_few(document) if not document["scope"] else []
    for text in few:
        console.print(text, style="red", highlight=False)
    return 0 if all(result.fine for result in results) and not few else 1


def scope(options: argparse.Namespace) -> str:
    """What makes the run less than a whole one; empty for a whole one."""
    if options.onto is not None:
        return "rows of several runs; the time is the last one's"
    told = ["some rows only"] if options.rows else []
    told += ["shortened rows"] if options.minutes or options.seconds else []
    return ", ".join(told)


def merge(path: Path, results: Sequence[Result]) -> list[Result]:
    """Those of an earlier run, each replaced where it was run again."""
    earlier = [Result.read(row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]
    fresh = {(result.name, result.ablation): result for result in results}
    return [fresh.pop((result.name, result.ablation), result) for result in earlier] + [*fresh.values()]


def too_few(document: dict[str, Any]) -> list[str]:
    """Of what a whole run has to inject."""
    counts = {name: document["totals"][name][0] for name in WANTED}
    return [f"only {counts[name]:,} {name}, not {wanted:,}" for name, wanted in WANTED.items() if counts[name] < wanted]


def plan_times(rows: Sequence[Row], minutes: float | None, seconds: float | None) -> list[tuple[Row, float]]:
    """How long each row injects: its share of `minutes` in all, or `seconds` each, or its own time."""
    if seconds is not None:
        return [(row, max(row.shortest, seconds)) for row in rows]
    factor = 1.0
    if minutes is not None:
        factor = max(0.05, minutes * 60 - OVERHEAD_SECONDS * len(rows)) / sum(row.seconds for row in rows)
    return [(row, max(row.shortest, row.seconds * factor)) for row in rows]


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--rows", help="only these, by name: F01,F11")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of all chance (a new one each run)")
    parser.add_argument("--minutes", type=float, help="stretch or shrink the rows to about so long in all")
    parser.add_argument("--seconds", type=float, help="so long for each row")
    parser.add_argument(
        "--ablation", nargs="?", const="only", choices=("only", "too"), help="rows with a guard off: only, or too"
    )
    parser.add_argument("--list", action="store_true", help="show the rows and end")
    parser.add_argument("--keep", action="store_true", help="keep logs and ledgers, as when a row fails")
    parser.add_argument("--onto", type=Path, help="an earlier faults.json, in which the rows run now replace theirs")
    parser.add_argument("--output", type=Path, default=Path("build/faults.json"), help="%(default)s")
    parser.add_argument(
        "--document", type=Path, help="fill the marked places of this file, such as docs/reliability.md"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
