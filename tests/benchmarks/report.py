"""The figures as rows, as a summary with the keys scripts read, as a table for people."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.growth import Growth
from tests.benchmarks.recovery import Recovery
from tests.benchmarks.workloads import Rates

Row = dict[str, Any]


def rates_row(workload: str, side: str, pair: int, rates: Rates) -> Row:
    return {"workload": workload, "side": side, "pair": pair, **asdict(rates)}


def latencies_row(side: str, pair: int, seconds: Sequence[float]) -> Row:
    """`latencies_ms` are kept, so that percentiles over all pairs can be taken."""
    milliseconds = sorted(1000 * each for each in seconds)
    return {
        "workload": "W3",
        "side": side,
        "pair": pair,
        "p50_ms": median(milliseconds),
        "p99_ms": _p99(milliseconds),
        "latencies_ms": [round(each, 2) for each in milliseconds],
    }


def recovery_row(side: str, case: str, recovery: Recovery) -> Row:
    return {"workload": "W4", "side": side, "case": case, **asdict(recovery)}


def growth_row(growth: Growth) -> Row:
    return {"workload": "plan", "side": "ours", **asdict(growth)}


class Figures:
    """All rows of a run. A figure whose rows are missing is null: it was not measured."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def summary(self) -> dict[str, float | int | None]:
        """The keys of `build/bench.json` that scripts read."""
        lapsed, undisturbed = self._w4("ours", "killed"), self._w4("ours", "undisturbed")
        plan = self._of("plan", "ours")
        return {
            "w1_ratio_to_celery": self.ratio("W1", "W1", "workflows_per_s"),
            "w1_batch_ratio_to_celery": self.ratio("W1 batch", "W1", "workflows_per_s"),
            "w1_workflows_per_s": self.middle("W1", "ours", "workflows_per_s"),
            "w1_cpu_seconds_per_1000_steps": self.cpu("W1", "ours"),
            "w1_commits_per_step": self.middle("W1", "ours", "commits_per_step"),
            "w2_ratio_to_celery": self.ratio("W2", "W2", "steps_per_s"),
            "w2_cpu_seconds_per_1000_steps": self.cpu("W2", "ours"),
            "w2_commits_per_step": self.middle("W2", "ours", "commits_per_step"),
            "w3_p50_ms": self.middle("W3", "ours", "p50_ms"),
            "w3_p50_ratio_to_celery": self.ratio("W3", "W3", "p50_ms"),
            "w3_p99_ratio_to_celery": _divided(self.p99("ours"), self.p99("celery")),
            # How much longer than undisturbed, where nobody saw the death and the lease had to lapse.
            "w4_recovery_s": lapsed["seconds"] - undisturbed["seconds"] if lapsed and undisturbed else None,
            "w4_bodies_twice": lapsed["bodies_twice"] if lapsed else None,
            "plan_10000_rate_last_to_first": plan[0]["rate_last_to_first"] if plan else None,
        }

    def table(self) -> Table:
        table = Table(title="Medians over pairs (least to most)")
        for name in ("", "side", "workflows/s", "x celery", "commits/step", "CPU s/1k steps"):
            table.add_column(name, justify="left" if name in ("", "side") else "right")
        for workload, side in self._sides():
            rows = self._of(workload, side)
            if "workflows_per_s" in rows[0]:
                base = workload if self._of(workload, "celery") else workload.split()[0]
                table.add_row(
                    workload,
                    side,
                    _spread(rows, "workflows_per_s", 1),
                    "" if side == "celery" else _shown(self.ratio(workload, base, "workflows_per_s")),
                    # Celery's are the idle loops of ours: it never talks to Postgres.
                    "" if side == "celery" else _spread(rows, "commits_per_step", 2),
                    _shown(self.cpu(workload, side)),
                )
        return table

    def lines(self) -> list[str]:
        """What does not fit the table."""
        lines = [
            f"{workload} {side}: {self.middle(workload, side, 'steps_per_s'):.0f} steps/s; CPU s/1k by {_parts(rows)}"
            for workload, side in self._sides()
            for rows in (self._of(workload, side),)
            if "steps_per_s" in rows[0] and workload != "plan"
        ]
        for side in ("ours", "celery"):
            if self._of("W3", side):
                p50 = _spread(self._of("W3", side), "p50_ms", 1)
                lines.append(f"W3 {side}: p50 {p50} ms, p99 {_shown(self.p99(side))} ms")
        for row in self.rows:
            if row["workload"] == "W4":
                after = (
                    "" if row["seconds_after_kill"] is None else f", {row['seconds_after_kill']:.1f} s after the kill"
                )
                counts = f"{row['lost']} of 100 lost, {row['bodies_twice']} bodies twice"
                lines.append(f"W4 {row['side']}, {row['case']}: done in {row['seconds']:.1f} s{after}; {counts}")
            if row["workload"] == "plan":
                lines.append(
                    f"plan of {row['steps']} steps: accepted in {row['accept_seconds']:.1f} s, then "
                    f"{row['steps_per_s']:.0f} steps/s, last quarter at {row['rate_last_to_first']:.2f} of the first"
                )
        return lines

    def middle(self, workload: str, side: str, figure: str) -> float | None:
        return _median([row[figure] for row in self._of(workload, side)])

    def cpu(self, workload: str, side: str) -> float | None:
        return _median([sum(row["cpu_seconds_per_1000_steps"].values()) for row in self._of(workload, side)])

    def ratio(self, workload: str, base: str, figure: str) -> float | None:
        """Ours to Celery's: the median over pairs of what was measured side by side."""
        theirs = {row["pair"]: row[figure] for row in self._of(base, "celery")}
        return _median(
            [row[figure] / theirs[row["pair"]] for row in self._of(workload, "ours") if row["pair"] in theirs]
        )

    def p99(self, side: str) -> float | None:
        pooled = [each for row in self._of("W3", side) for each in row["latencies_ms"]]
        return _p99(pooled) if pooled else None

    def _sides(self) -> list[tuple[str, str]]:
        return list(dict.fromkeys((row["workload"], row["side"]) for row in self.rows))

    def _of(self, workload: str, side: str) -> list[Row]:
        return [row for row in self.rows if row["workload"] == workload and row["side"] == side]

    def _w4(self, side: str, case: str) -> Row | None:
        return next((row for row in self._of("W4", side) if row["case"] == case), None)


def write_report(path: Path, document: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def print_report(console: Console, figures: Figures, violations: Sequence[str]) -> None:
    console.print(figures.table())
    for line in figures.lines():
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"violated invariants: {len(violations)}")
    for line in violations:
        console.print(f"  {line}", highlight=False)


def _p99(values: Sequence[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[98] if len(values) > 1 else values[0]


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def _divided(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _spread(rows: Sequence[Row], figure: str, digits: int) -> str:
    values = [row[figure] for row in rows]
    show: Callable[[float], str] = f"{{:.{digits}f}}".format
    middle = show(median(values))
    return middle if len(values) == 1 else f"{middle} ({show(min(values))}-{show(max(values))})"


def _parts(rows: Sequence[Row]) -> str:
    names = rows[0]["cpu_seconds_per_1000_steps"]
    return " ".join(f"{name} {median([row['cpu_seconds_per_1000_steps'][name] for row in rows]):.2f}" for name in names)
