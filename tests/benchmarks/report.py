"""The figures for people: tables of speed, of cost, of traffic and memory, of latencies, of recovery."""

from collections.abc import Sequence
from statistics import median

from rich.console import Console

from tests.benchmarks.figures import CELERY, HANDWRITTEN, Figures
from tests.benchmarks.rows import Row
from tests.benchmarks.sheet import Sheet, print_sheets

COMPONENTS = ("workers", "postgres", "redis", "loops", "driver")
MIB = 1024 * 1024


def print_report(console: Console, figures: Figures, violations: Sequence[str]) -> None:
    print_sheets(console, sheets(figures))
    style = "red" if violations else "green"
    console.print(f"violated invariants: {len(violations)}", style=style, highlight=False)
    for line in violations:
        console.print(f"  {line}", highlight=False)


def sheets(figures: Figures) -> list[Sheet]:
    made = [_speed(figures), _cost(figures), _traffic(figures), _memory(figures)]
    made += [_latencies(figures), _load(figures), _recovery(figures), _growth(figures)]
    return [sheet for sheet in made if sheet.rows]


def _speed(figures: Figures) -> Sheet:
    sheet = Sheet("Speed", ("", "side", "workflows/s", "steps/s", "x celery", "x handwritten"))
    sheet.note = "Medians over rounds (least-most); ratios are medians of the ratios of rounds."
    for workload, side in figures.sides(having="workflows_per_s"):
        sheet.add(
            workload,
            side,
            _spread(figures.values(workload, side, "workflows_per_s"), 1),
            _shown(figures.middle(workload, side, "steps_per_s"), 0),
            _ratio(figures, workload, side, CELERY),
            _ratio(figures, workload, side, HANDWRITTEN),
        )
    return sheet


def _cost(figures: Figures) -> Sheet:
    sheet = Sheet("CPU seconds per 1,000 steps", ("", "side", "all", *COMPONENTS, "commits/step"))
    for workload, side in figures.sides(having="cpu_seconds_per_1000_steps"):
        parts = [_shown(figures.middle(workload, side, "cpu_seconds_per_1000_steps", name)) for name in COMPONENTS]
        commits = _spread(figures.values(workload, side, "commits_per_step"), 2)
        # The canvas never talks to Postgres.
        sheet.add(workload, side, _shown(figures.cpu(workload, side)), *parts, "" if side == CELERY else commits)
    return sheet


def _traffic(figures: Figures) -> Sheet:
    sheet = Sheet(
        "Per step: round trips, and KiB over the servers' sockets (both ways) and into Postgres's log",
        ("", "side", "trips postgres", "trips redis", "KiB postgres", "KiB redis", "KiB log"),
    )
    for workload, side in figures.sides(having="round_trips_per_step"):
        trips = [figures.middle(workload, side, "round_trips_per_step", name) for name in ("postgres", "redis")]
        moved = [figures.middle(workload, side, "bytes_per_step", name) for name in ("postgres", "redis", "wal")]
        kibibytes = [each / 1024 if each is not None else None for each in moved]
        sheet.add(workload, side, *(_shown(each, 2) for each in (*trips, *kibibytes)))
    return sheet


def _memory(figures: Figures) -> Sheet:
    sheet = Sheet("Memory after the load, MiB", ("", "side", *COMPONENTS))
    sheet.note = "Pages that processes share are divided among them; all sides share one Postgres and one Redis."
    for workload, side in figures.sides(having="memory"):
        found = [figures.middle(workload, side, "memory", name, "pss_bytes") for name in COMPONENTS]
        sheet.add(workload, side, *(_shown(each / MIB if each is not None else None, 0) for each in found))
    return sheet


def _latencies(figures: Figures) -> Sheet:
    sheet = Sheet("W3: one workflow alone on an idle system", ("side", "p50 ms", "p99 ms", "p50 x celery"), names=1)
    for workload, side in figures.sides(having="latencies_ms"):
        ratio = "" if side == CELERY else _shown(figures.ratio("W3", "p50_ms", of=side))
        sheet.add(side, _spread(figures.values(workload, side, "p50_ms"), 1), _shown(figures.p99(side), 1), ratio)
    return sheet


def _load(figures: Figures) -> Sheet:
    sheet = Sheet(
        "Latency under load: W1 arriving by the clock at half of the side's own W1 maximum",
        ("side", "arrivals/s", "p50 ms", "p95 ms", "p99 ms", "longest ms"),
        names=1,
        note="Open loop: latency counts from when a workflow was due, not from when it could be sent.",
    )
    for _, side in figures.sides(having="longest_ms"):
        for row in figures.of("load", side):
            percentiles = (row[name] for name in ("p50_ms", "p95_ms", "p99_ms", "longest_ms"))
            sheet.add(side, _shown(row["rate_per_s"], 0), *(_shown(each, 1) for each in percentiles))
    return sheet


def _recovery(figures: Figures) -> Sheet:
    sheet = Sheet(
        "W4: one of two workers is killed with 100 workflows in flight",
        ("side", "case", "s in all", "s after the kill", "lost of 100", "bodies twice", "in flight there"),
    )
    for row in _with(figures, "bodies_twice"):
        seconds = (_shown(row["seconds"], 1), _shown(row["seconds_after_kill"], 1))
        in_flight = "" if row["bodies_in_flight"] is None else str(row["bodies_in_flight"])
        sheet.add(row["side"], row["case"], *seconds, str(row["lost"]), str(row["bodies_twice"]), in_flight)
    return sheet


def _growth(figures: Figures) -> Sheet:
    sheet = Sheet("One large plan", ("steps", "s to accept", "steps/s then", "last quarter to first"), names=1)
    for row in _with(figures, "rate_last_to_first")[:1]:
        parts = (("accept_seconds", 1), ("steps_per_s", 0), ("rate_last_to_first", 2))
        shown = (_spread(figures.values("plan", row["side"], figure), digits) for figure, digits in parts)
        sheet.add(f"{row['steps']:,}", *shown)
    return sheet


def _with(figures: Figures, figure: str) -> list[Row]:
    return [row for row in figures.rows if figure in row]


def _ratio(figures: Figures, workload: str, side: str, to: str) -> str:
    return "" if side == to else _shown(figures.ratio(workload, "workflows_per_s", to, of=side))


def _shown(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    middle = _shown(median(values), digits)
    return middle if len(values) == 1 else f"{middle} ({_shown(min(values), digits)}-{_shown(max(values), digits)})"
