"""What a cell measured, as a row of `build/bench.json`: plain values, `workload` and `side` first."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median, quantiles
from typing import Any

from tests.benchmarks.growth import Growth
from tests.benchmarks.open_loop import Latencies
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
        "p99_ms": p99(milliseconds),
        "latencies_ms": [round(each, 2) for each in milliseconds],
    }


def load_row(side: str, latencies: Latencies) -> Row:
    return {"workload": "load", "side": side, **asdict(latencies)}


def recovery_row(side: str, case: str, recovery: Recovery) -> Row:
    return {"workload": "W4", "side": side, "case": case, **asdict(recovery)}


def growth_row(growth: Growth) -> Row:
    return {"workload": "plan", "side": "ours", **asdict(growth)}


def p99(values: Sequence[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[98] if len(values) > 1 else values[0]
