"""`python -m tests.benchmarks.curves`: the rate against workers, load, plan size, history; into build/curves.json."""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from contracts.errors import OrchestratorError
from orchestrator.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.benchmarks.bodies import Item
from tests.benchmarks.chart import Chart
from tests.benchmarks.document import Document
from tests.benchmarks.growth import run_plan
from tests.benchmarks.history import fill
from tests.benchmarks.measure import Meter, machine
from tests.benchmarks.ours import DATABASE, Ours
from tests.benchmarks.sheet import Sheet, print_sheets
from tests.benchmarks.workloads import W1, W1_BATCH, W2, W3, Rates, Stalled, Workload, run_latencies, run_load

WORKERS = (1, 2, 4)
IN_FLIGHT = (1, 10, 50, 200, 1000, 2000)
PLAN_SIZES = (10, 100, 1000, 10_000)
HISTORY = (0, 10_000, 1_000_000)
HISTORY_ROUNDS = 5
SLOTS = 100
WARMUP_SECONDS = 1.0
PLAN_LIMIT_SECONDS = 150.0

Row = dict[str, Any]


class Curves:
    """Each curve is a function to its rows: `curve`, `line`, `x`, `steps_per_s` and every value measured."""

    def __init__(self, folder: Path, stack: ExitStack, *, seconds: float, console: Console) -> None:
        self._folder = folder
        self._seconds = seconds
        self._console = console
        self.postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres"))
        self._redis = stack.enter_context(EmbeddedRedis(folder / "redis"))
        ports = {"postgres": self.postgres.port, "redis": self._redis.port}
        self._meter = stack.enter_context(Meter(self.postgres.url, ports))

    def workers(self) -> Iterator[Row]:
        """More processes than cores cannot help: what then is gained or lost is shown all the same."""
        for count in WORKERS:
            with self._ours(workers=count) as ours:
                for workload in (W1, W1_BATCH, W2):
                    yield self._rates_row("workers", workload.name, count, [self._run(ours, workload)])

    def in_flight(self) -> Iterator[Row]:
        with self._ours() as ours:
            rate = 0.0
            for count in IN_FLIGHT:
                workload = replace(W1, in_flight=count, clients=min(count, W1.clients))
                # It is steady once as many have ended as were let in at the start.
                rates = self._run(ours, workload, count / rate if rate else WARMUP_SECONDS)
                rate = rates.workflows_per_s
                yield self._rates_row("in_flight", W1.name, count, [rates])

    def plan(self) -> Iterator[Row]:
        """Plans brought along, of steps that need nothing; small ones several times, since each is over at once."""
        with self._ours() as ours:
            for size in PLAN_SIZES:
                times = 7 if size < 1000 else 1
                growths = [run_plan(ours, size, limit_seconds=PLAN_LIMIT_SECONDS) for _ in range(times)]
                yield self._row("plan", "one plan", size, [growth.steps_per_s_in_all for growth in growths])

    def history(self) -> Iterator[Row]:
        """The same load on databases with different pasts, in turns; the ratios are of the same round."""
        with ExitStack() as stack:
            sides = {}
            for number, steps in enumerate(HISTORY):
                ours = stack.enter_context(self._ours(database=f"{DATABASE}{steps}", broker_database=number))
                if steps:
                    self._say(f"{steps:,} finished steps are being made")
                    fill(self.postgres.url_of(ours.database), _finished_task(ours), steps)
                sides[steps] = ours
            runs: dict[int, list[Rates]] = {steps: [] for steps in HISTORY}
            for turn in range(HISTORY_ROUNDS):
                for steps in (*HISTORY[turn % 3 :], *HISTORY[: turn % 3]):
                    runs[steps].append(self._run(sides[steps], W1))
            for steps, rates in runs.items():
                pairs = zip(rates, runs[0], strict=True)
                ratio = median(each.steps_per_s / bare.steps_per_s for each, bare in pairs)
                yield {**self._rates_row("history", W1.name, steps, rates), "ratio_to_none": ratio}

    def _run(self, ours: Ours, workload: Workload, warmup_seconds: float = WARMUP_SECONDS) -> Rates:
        warmup_seconds = max(WARMUP_SECONDS, warmup_seconds)
        return run_load(ours, workload, self._meter, seconds=self._seconds, warmup_seconds=warmup_seconds)

    def _rates_row(self, curve: str, line: str, x: int, rates: Sequence[Rates]) -> Row:
        cpu = median(sum(each.cpu_seconds_per_1000_steps.values()) for each in rates)
        return {**self._row(curve, line, x, [each.steps_per_s for each in rates]), "cpu_seconds_per_1000_steps": cpu}

    def _row(self, curve: str, line: str, x: int, values: Sequence[float]) -> Row:
        self._say(f"{curve} {x:,} {line}: {median(values):,.0f} steps/s")
        return {"curve": curve, "line": line, "x": x, "steps_per_s": median(values), "values": list(values)}

    @contextmanager
    def _ours(self, *, workers: int = 2, database: str = DATABASE, broker_database: int = 0) -> Iterator[Ours]:
        ours = Ours(
            self._folder,
            self.postgres,
            self._redis,
            workers=workers,
            slots=SLOTS,
            database=database,
            broker_database=broker_database,
        )
        try:
            run_latencies(ours, W3, count=20)  # first uses are slow: connections, imports, plans
            yield ours
        finally:
            ours.stop()

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False)


def charts(rows: Sequence[Row]) -> dict[str, Chart]:
    """By the name of the picture."""
    texts = {
        "workers": ("Worker processes", "worker processes"),
        "in_flight": ("Workflows in flight", "workflows of three steps in flight"),
        "plan": ("Size of one plan", "steps of the plan"),
        "history": ("History in the database", "finished steps in the database before"),
    }
    found = {}
    for curve, (title, x_name) in texts.items():
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            if row["curve"] == curve:
                lines.setdefault(row["line"], []).append((row["x"], row["steps_per_s"]))
        if lines:
            found[f"curve-{curve.replace('_', '-')}"] = Chart(title, x_name, "steps/s", lines)
    return found


def sheet(rows: Sequence[Row]) -> Sheet:
    made = Sheet(
        "Scaling", ("curve", "workload", "at", "steps/s", "least-most", "CPU s/1k steps", "to no history"), names=3
    )
    for row in rows:
        values = row["values"]
        spread = f"{min(values):,.0f}-{max(values):,.0f}" if len(values) > 1 else ""
        cpu = f"{row['cpu_seconds_per_1000_steps']:.2f}" if "cpu_seconds_per_1000_steps" in row else ""
        ratio = f"{row['ratio_to_none']:.2f}" if "ratio_to_none" in row else ""
        made.add(row["curve"], row["line"], f"{row['x']:,}", f"{row['steps_per_s']:,.0f}", spread, cpu, ratio)
    return made


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """Steps per second by curve, line and x; and how a long history changes W1."""
    found = {f"{row['curve']}_{row['line'].replace(' ', '_')}_{row['x']}": row["steps_per_s"] for row in rows}
    ratios = {
        f"history_{row['x']}_ratio": row["ratio_to_none"] for row in rows if row.get("ratio_to_none") and row["x"]
    }
    return {**found, **ratios}


def _finished_task(ours: Ours) -> str:
    """One small W1 workflow, run for its rows."""
    workload = replace(W3, item=Item(text="x" * 100))
    (task_id,) = ours.submit(workload, 1)
    ours.wait(task_id)
    return task_id


def main() -> int:
    options = read_options()
    console = Console() if sys.stdout.isatty() else Console(width=140)
    document = Document("curves")
    folder = Path(tempfile.mkdtemp(prefix="orchestrator-curves-"))
    rows: list[Row] = []
    try:
        with ExitStack() as stack:
            curves = Curves(folder, stack, seconds=options.seconds, console=console)
            chosen: dict[str, Callable[[], Iterator[Row]]] = {
                "workers": curves.workers,
                "in_flight": curves.in_flight,
                "plan": curves.plan,
                "history": curves.history,
            }
            for name in options.only:
                rows.extend(chosen[name]())
            where = machine(curves.postgres.url)
    except (Stalled, RuntimeError, OrchestratorError) as error:
        console.print(f"curves: {error}; the logs are in {folder}", highlight=False)
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    seconds = document.write(options.output, machine=where, rows=rows, summary=summary(rows))
    print_sheets(console, [sheet(rows)])
    console.print(f"{options.output} written after {seconds:.0f} s", highlight=False)
    return 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.curves", description=__doc__)
    names = ("workers", "in_flight", "plan", "history")
    parser.add_argument("--seconds", type=float, default=4.0, help="of steady load per point (%(default)g)")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="measure only these")
    parser.add_argument("--output", type=Path, default=Path("build/curves.json"), help="%(default)s")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
