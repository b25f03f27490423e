"""What Prometheus would see: a scrape, and its series by name and labels."""

from collections.abc import Mapping

import httpx
from prometheus_client.parser import text_string_to_metric_families

Series = Mapping[str, list[tuple[dict[str, str], float]]]


def scrape(url: str, token: str | None = None) -> Series:
    """The samples by the name under which a query finds them."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = httpx.get(url, headers=headers, timeout=20)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return parse(answer.text)


def declared(url: str, token: str | None = None) -> set[str]:
    """Names of the metrics that a process has, whether it has counted anything of them or not."""
    text = httpx.get(url, headers={"Authorization": f"Bearer {token}"} if token else {}, timeout=20).text
    return {family.name for family in text_string_to_metric_families(text)}


def parse(text: str) -> Series:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(series: Series, name: str, **labels: str) -> float | None:
    """Of the one series that has these labels; null where there is none."""
    fitting = [number for has, number in series.get(name, ()) if labels.items() <= has.items()]
    assert len(fitting) <= 1, f"{name} {labels}: {len(fitting)} series"
    return fitting[0] if fitting else None
