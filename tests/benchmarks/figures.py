"""All rows of a run, and the figures taken from them: medians, and ratios of what was measured side by side."""

from collections.abc import Sequence
from statistics import median

from tests.benchmarks.rows import Row, p99

OURS, CELERY, HANDWRITTEN = "ours", "celery", "handwritten"


class Figures:
    """A figure whose rows are missing is None: it was not measured."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def summary(self) -> dict[str, float | int | None]:
        """The keys of `build/bench.json` that scripts read."""
        lapsed, undisturbed, seen = (self.recovery(OURS, case) for case in ("killed", "undisturbed", "killed and seen"))
        plan, load = self.of("plan", OURS), self.of("load", OURS)
        return {
            "w1_ratio_to_celery": self.ratio("W1", "workflows_per_s"),
            "w1_batch_ratio_to_celery": self.ratio("W1 batch", "workflows_per_s"),
            "w1_workflows_per_s": self.middle("W1", OURS, "workflows_per_s"),
            "w1_cpu_seconds_per_1000_steps": self.cpu("W1", OURS),
            "w1_commits_per_step": self.middle("W1", OURS, "commits_per_step"),
            "w2_ratio_to_celery": self.ratio("W2", "steps_per_s"),
            "w2_cpu_seconds_per_1000_steps": self.cpu("W2", OURS),
            "w2_commits_per_step": self.middle("W2", OURS, "commits_per_step"),
            "w3_p50_ms": self.middle("W3", OURS, "p50_ms"),
            "w3_p50_ratio_to_celery": self.ratio("W3", "p50_ms"),
            "w3_p99_ratio_to_celery": _divided(self.p99(OURS), self.p99(CELERY)),
            # How much longer than undisturbed, where nobody saw the death and the lease had to lapse.
            "w4_recovery_s": lapsed["seconds"] - undisturbed["seconds"] if lapsed and undisturbed else None,
            "w4_bodies_twice": lapsed["bodies_twice"] if lapsed else None,
            "w4_seen_recovery_s": seen["seconds"] - undisturbed["seconds"] if seen and undisturbed else None,
            "plan_10000_rate_last_to_first": plan[0]["rate_last_to_first"] if plan else None,
            "w1_ratio_to_handwritten": self.ratio("W1", "workflows_per_s", HANDWRITTEN),
            "w1_batch_ratio_to_handwritten": self.ratio("W1 batch", "workflows_per_s", HANDWRITTEN),
            "w1_batch_workflows_per_s": self.middle("W1 batch", OURS, "workflows_per_s"),
            "w1_batch_cpu_seconds_per_1000_steps": self.cpu("W1 batch", OURS),
            "w2_ratio_to_handwritten": self.ratio("W2", "steps_per_s", HANDWRITTEN),
            "w2_steps_per_s": self.middle("W2", OURS, "steps_per_s"),
            "w3_p99_ms": self.p99(OURS),
            "load_rate_per_s": load[0]["rate_per_s"] if load else None,
            "load_p50_ms": load[0]["p50_ms"] if load else None,
            "load_p95_ms": load[0]["p95_ms"] if load else None,
            "load_p99_ms": load[0]["p99_ms"] if load else None,
        }

    def of(self, workload: str, side: str) -> list[Row]:
        return [row for row in self.rows if row["workload"] == workload and row["side"] == side]

    def sides(self, *, having: str) -> list[tuple[str, str]]:
        """Workload and side of the rows that have this figure, in the order they were first measured."""
        return list(dict.fromkeys((row["workload"], row["side"]) for row in self.rows if having in row))

    def middle(self, workload: str, side: str, *figure: str) -> float | None:
        """The median over rounds; several names lead into a figure that has parts."""
        values = self.values(workload, side, *figure)
        return median(values) if values else None

    def values(self, workload: str, side: str, *figure: str) -> list[float]:
        found: list[float] = []
        for row in self.of(workload, side):
            value: object = row
            for name in figure:
                value = value.get(name) if isinstance(value, dict) else None
            if isinstance(value, int | float):
                found.append(float(value))
        return found

    def cpu(self, workload: str, side: str) -> float | None:
        sums = [sum(row["cpu_seconds_per_1000_steps"].values()) for row in self.of(workload, side)]
        return median(sums) if sums else None

    def ratio(self, workload: str, figure: str, to: str = CELERY, *, of: str = OURS) -> float | None:
        """The median over pairs. What the other side cannot do (batches, processes) is held against its W1."""
        base = workload if self.of(workload, to) else workload.split()[0]
        theirs = {row["pair"]: row[figure] for row in self.of(base, to)}
        pairs = [row[figure] / theirs[row["pair"]] for row in self.of(workload, of) if row["pair"] in theirs]
        return median(pairs) if pairs else None

    def p99(self, side: str) -> float | None:
        """Of all W3 latencies of all rounds."""
        pooled = [each for row in self.of("W3", side) for each in row["latencies_ms"]]
        return p99(pooled) if pooled else None

    def recovery(self, side: str, case: str) -> Row | None:
        return next((row for row in self.of("W4", side) if row["case"] == case), None)


def _divided(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None
