"""Histograms for what happens with every step: written by one thread only, so they need none of the locks that make the
library's several times as dear."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class Duration:
    """Seconds, counted by bucket; what is over the last bound is in the last bucket."""

    __slots__ = ("_bounds", "counts", "seconds")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.seconds = 0.0

    def note(self, seconds: float) -> None:
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.seconds += seconds


class Durations(Collector):
    """One metric, with a `Duration` for each of its labels."""

    def __init__(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._bounds = bounds
        self._known: dict[tuple[str, ...], Duration] = {}

    def of(self, *values: str) -> Duration:
        return self._known.setdefault(values, Duration(self._bounds))

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for values, duration in list(self._known.items()):
            counts = list(accumulate(duration.counts))
            family.add_metric(values, list(zip(bounds, counts, strict=True)), duration.seconds)
        return [family]
