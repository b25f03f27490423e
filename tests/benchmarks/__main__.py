"""`python -m tests.benchmarks`: W1 to W4 beside both baselines, tables at the end, build/bench.json for scripts."""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from contracts.errors import OrchestratorError
from orchestrator.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.benchmarks.canvas import Canvas
from tests.benchmarks.document import Document
from tests.benchmarks.figures import CELERY, HANDWRITTEN, Figures
from tests.benchmarks.growth import run_plan
from tests.benchmarks.handwritten import Handwritten
from tests.benchmarks.measure import Meter, machine
from tests.benchmarks.open_loop import run_open_loop
from tests.benchmarks.ours import Ours
from tests.benchmarks.recovery import run_recovery
from tests.benchmarks.report import print_report
from tests.benchmarks.rows import Row, growth_row, latencies_row, load_row, rates_row, recovery_row
from tests.benchmarks.workloads import W1, W1_BATCH, W2, W3, Rates, Stalled, System, Workload, run_latencies, run_load

WARMUP_SECONDS = 1.5
LATENCIES = 200
PLAN_LIMIT_SECONDS = 150.0
LOAD_SHARE = 0.5
LOAD_SECONDS = 10.0
CHOICES = ("W1", "batch", "process", "W2", "W3", "load", "W4", "plan")

Cell = tuple[str, Callable[[], Row]]


class Bench:
    """All sides on the same servers, and the cells to measure: each is a name and a function to its row."""

    def __init__(self, options: argparse.Namespace, folder: Path, stack: ExitStack) -> None:
        self._options = options
        self._folder = folder
        self._postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres"))
        redis = stack.enter_context(EmbeddedRedis(folder / "redis"))
        ports = {"postgres": self._postgres.port, "redis": redis.port}
        self._meter = stack.enter_context(Meter(self._postgres.url, ports))
        self.ours = Ours(folder, self._postgres, redis, workers=options.workers, slots=options.slots)
        stack.callback(self.ours.stop)
        self._sides: list[System] = [self.ours]
        self.canvas: Canvas | None = None
        if CELERY in options.sides:
            self.canvas = Canvas(folder, redis, workers=options.workers, slots=options.slots)
            stack.callback(self.canvas.stop)
            self._sides.append(self.canvas)
        if HANDWRITTEN in options.sides:
            handwritten = Handwritten(folder, self._postgres, redis, workers=options.workers, slots=options.slots)
            stack.callback(handwritten.stop)
            self._sides.append(handwritten)
        self._maxima: dict[str, list[float]] = {}
        for side in self._sides:  # first uses are slow: connections, imports, plans
            run_latencies(side, W3, count=20)

    def machine(self) -> dict[str, object]:
        return machine(self._postgres.url)

    def cells(self) -> list[Cell]:
        """Rounds first, and who begins changes from round to round: a drift of the machine then hits all alike."""
        cells: list[Cell] = []
        chosen = self._options.only
        for pair in range(self._options.pairs):
            first = pair % len(self._sides)
            sides = self._sides[first:] + self._sides[:first]
            if "W1" in chosen:
                cells += [self._rates(W1, side, pair) for side in sides]
            if "batch" in chosen:
                cells.append(self._rates(W1_BATCH, self.ours, pair))
            if "W2" in chosen:
                cells += [self._rates(W2, side, pair) for side in sides]
            if "W3" in chosen:
                cells += [self._latencies(side, pair) for side in sides]
            if "plan" in chosen:
                cells.append((f"plan of {self._options.plan_steps} steps", self._run_plan))
        if "load" in chosen:
            cells += [(f"latency under load, {side.name}", partial(self._run_open_loop, side)) for side in self._sides]
        if "process" in chosen:
            cells.append(("W1 in processes, ours", self._run_in_processes))
        if "W4" in chosen:
            cells += [
                ("W4 undisturbed, ours", partial(self._recovery, self.ours, "undisturbed", None)),
                ("W4 killed, ours", partial(self._recovery, self.ours, "killed", self._kill)),
                ("W4 killed and seen, ours", partial(self._recovery, self.ours, "killed and seen", self._kill_and_say)),
            ]
            if self.canvas is not None:
                cells.append(
                    ("W4 killed, celery", partial(self._recovery, self.canvas, "killed", self.canvas.kill_worker))
                )
        return cells

    def _rates(self, workload: Workload, system: System, pair: int) -> Cell:
        def run() -> Row:
            rates = self._run_load(workload, system)
            if workload is W1:
                self._maxima.setdefault(system.name, []).append(rates.workflows_per_s)
            return rates_row(workload.name, system.name, pair, rates)

        return f"{workload.name}, {system.name}", run

    def _latencies(self, system: System, pair: int) -> Cell:
        def run() -> Row:
            return latencies_row(system.name, pair, run_latencies(system, W3, count=LATENCIES))

        return f"W3, {system.name}", run

    def _run_load(self, workload: Workload, system: System) -> Rates:
        seconds = self._options.seconds
        return run_load(system, workload, self._meter, seconds=seconds, warmup_seconds=WARMUP_SECONDS)

    def _run_open_loop(self, system: System) -> Row:
        """At a share of what this run has measured as the most; measured now where it was not."""
        maxima = self._maxima.get(system.name) or [self._run_load(W1, system).workflows_per_s]
        rate = LOAD_SHARE * median(maxima)
        latencies = run_open_loop(system, W1, rate_per_s=rate, seconds=LOAD_SECONDS, warmup_seconds=WARMUP_SECONDS)
        return load_row(system.name, latencies)

    def _run_in_processes(self) -> Row:
        self.ours.team = "bench-process"
        try:
            return rates_row("W1 in processes", "ours", 0, self._run_load(W1, self.ours))
        finally:
            self.ours.team = "bench"

    def _run_plan(self) -> Row:
        return growth_row(run_plan(self.ours, self._options.plan_steps, limit_seconds=PLAN_LIMIT_SECONDS))

    def _recovery(self, system: System, case: str, kill: Callable[[], int | None] | None) -> Row:
        journal = self._folder / f"journal {system.name} {case}"
        try:
            return recovery_row(system.name, case, run_recovery(system, journal, kill))
        finally:
            self.ours.restore_workers()

    def _kill(self) -> int:
        return self.ours.running(self.ours.kill_worker())

    def _kill_and_say(self) -> int:
        """As a supervisor does, who says at once that a worker has died."""
        name = self.ours.kill_worker()
        running = self.ours.running(name)
        self.ours.supervise(name)
        return running


def main() -> int:
    options = read_options()
    console = Console() if sys.stdout.isatty() else Console(width=140)
    document = Document("bench")
    folder = Path(tempfile.mkdtemp(prefix="orchestrator-bench-"))
    try:
        with ExitStack() as stack:
            bench = Bench(options, folder, stack)
            rows = run_cells(bench.cells(), console)
            violations, where = bench.ours.violations(), bench.machine()
    except (Stalled, RuntimeError, OrchestratorError) as error:
        console.print(f"bench: {error}; the logs are in {folder}", highlight=False)
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    figures = Figures(rows)
    seconds = document.write(options.output, machine=where, rows=rows, summary=figures.summary(), violations=violations)
    print_report(console, figures, violations)
    console.print(f"{options.output} written after {seconds:.0f} s", highlight=False)
    return 1 if violations else 0


def run_cells(cells: list[Cell], console: Console) -> list[Row]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    rows = []
    # Off a terminal nothing is drawn: a log wants lines.
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=len(cells))
        for name, run in cells:
            progress.update(bar, description=name)
            if not console.is_terminal:
                console.print(name, highlight=False)
            rows.append(run())
            progress.advance(bar)
    return rows


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of steady load per cell of W1 and W2 (%(default)g)")
    parser.add_argument("--pairs", type=int, default=5, help="rounds of all sides, one after the other (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes a side (%(default)s)")
    parser.add_argument("--slots", type=int, default=100, help="threads a worker process (%(default)s)")
    parser.add_argument("--plan-steps", type=int, default=10_000, help="steps of the one large plan (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=CHOICES, default=CHOICES, help="measure only these")
    sides = (CELERY, HANDWRITTEN)
    parser.add_argument("--sides", nargs="*", choices=sides, default=sides, help="measured beside ours (all)")
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"), help="%(default)s")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
