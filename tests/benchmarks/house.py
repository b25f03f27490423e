"""`python -m tests.benchmarks.house`: what the house costs around the work - starting, importing, HTTP, watching."""

import argparse
import asyncio
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from rich.console import Console

from contracts.errors import OrchestratorError
from orchestrator.client import Client
from tests.acceptance.dev_process import Dev
from tests.benchmarks.document import Document
from tests.benchmarks.measure import machine, memory_of_trees, tree_seconds
from tests.benchmarks.sheet import Sheet, print_sheets
from tests.benchmarks.watchers import watch

IMPORTS = 7
SUBMISSIONS = 1000
CLIENTS = 4
WATCHERS = 200
WATCHED_STEPS = 30
NAP_SECONDS = 0.2
"""A watched step: long enough that events come one by one, so that lateness is not that of a burst."""
ECHO = {"steps": [{"id": "echo", "agent": "echo", "input": {"text": "x" * 990}}]}

Row = dict[str, Any]


class House:
    """Each measurement yields rows: `measure`, `value`, `unit`."""

    def __init__(self, folder: Path, console: Console) -> None:
        self._folder = folder
        self._console = console

    def imports(self) -> Iterator[Row]:
        """Wall seconds of a fresh interpreter, the bare one's taken off; and what of it takes longest."""
        bare, client = _python_seconds("pass"), _python_seconds("import orchestrator.client")
        yield self._row("import orchestrator.client", client - bare, "s")
        yield self._row("a bare interpreter", bare, "s")
        for name, seconds in _slowest_imports("orchestrator.client"):
            yield self._row(f"of it (under importtime): {name}", seconds, "s")

    def starts(self) -> Iterator[Row]:
        """`orchestrator dev` from nothing, then again where its database exists; to its word, to a first result."""
        data_dir = self._folder / "starts"
        for name in ("first dev start", "next dev start"):
            started = time.monotonic()
            with Dev(data_dir, "--port", "0", "--no-flower", output=f"{name}.out") as dev:
                yield self._row(f"{name}: ready", time.monotonic() - started, "s")
                with dev.client() as client:
                    _run(client)
                yield self._row(f"{name}: first result", time.monotonic() - started, "s")

    def http(self) -> Iterator[Row]:
        """Submissions one by one over kept connections, in lists, and 200 watchers of one task."""
        with Dev(self._folder / "http", "--port", "0", "--no-flower") as dev, dev.client() as client:
            _run(client)
            api = int(dev.part("api")["pid"])
            yield self._memory("API, idle", api)
            yield from self._submissions(dev, api)
            before = tree_seconds(api)
            client.submit_many([{"team": "diagnostics", "plan": ECHO}] * SUBMISSIONS)
            cpu = 1000 * (tree_seconds(api) - before) / SUBMISSIONS
            yield self._row("CPU of the API per 1,000 tasks submitted in lists", cpu, "s")
            _settle(client)
            yield from self._watchers(dev, client, api)
            yield self._memory("API, afterwards", api)

    def _submissions(self, dev: Dev, api: int) -> Iterator[Row]:
        before, started = tree_seconds(api), time.monotonic()
        latencies = _submit_by_threads(dev)
        seconds = time.monotonic() - started
        cpu = 1000 * (tree_seconds(api) - before) / len(latencies)
        yield self._row("CPU of the API per 1,000 submissions", cpu, "s")
        yield self._row(f"submissions by {CLIENTS} clients", len(latencies) / seconds, "/s")
        yield self._row("a submission, p50", 1000 * median(latencies), "ms")
        yield self._row("a submission, p99", 1000 * _p99(latencies), "ms")
        with dev.client() as client:
            _settle(client)

    def _watchers(self, dev: Dev, client: Client, api: int) -> Iterator[Row]:
        record = dev.record()
        steps = [
            {"id": f"s{number}", "agent": "sleep", "input": {"seconds": NAP_SECONDS}, "needs": [f"s{number - 1}"]}
            for number in range(1, WATCHED_STEPS)
        ]
        first = {"id": "s0", "agent": "sleep", "input": {"seconds": 5 * NAP_SECONDS}}
        task_id = client.submit("diagnostics", plan={"steps": [first, *steps]})["id"]

        async def follow() -> tuple[list[float], float, Row]:
            connected = asyncio.Event()
            watching = asyncio.create_task(watch(record["url"], record["key"], task_id, WATCHERS, connected))
            await connected.wait()
            before, memory = tree_seconds(api), self._memory(f"API, {WATCHERS} watchers", api)
            seen = await watching
            return seen.lateness, tree_seconds(api) - before, memory

        lateness, cpu, memory = asyncio.run(follow())
        yield memory
        yield self._row(f"events delivered to {WATCHERS} watchers", len(lateness), "")
        yield self._row("CPU of the API per 1,000 events delivered", 1000 * cpu / len(lateness), "s")
        yield self._row("an event's lateness, p50", 1000 * median(lateness), "ms")
        yield self._row("an event's lateness, p99", 1000 * _p99(lateness), "ms")

    def _memory(self, name: str, pid: int) -> Row:
        found = memory_of_trees({name: [pid]})[name]
        return {**self._row(f"memory of the {name}", found.pss_bytes / 1024 / 1024, "MiB"), **asdict(found)}

    def _row(self, measure: str, value: float, unit: str) -> Row:
        self._console.print(f"{measure}: {value:,.3g} {unit}", highlight=False)
        return {"measure": measure, "value": value, "unit": unit}


def sheet(rows: Sequence[Row]) -> Sheet:
    made = Sheet("Cost of the house", ("", "value"), names=1)
    for row in rows:
        value = f"{row['value']:,.0f}" if row["value"] >= 100 else f"{row['value']:.3g}"
        made.add(row["measure"], f"{value} {row['unit']}".strip())
    return made


def _python_seconds(code: str) -> float:
    """The median of some runs; the first one, which fills the disk cache, left out."""
    seconds = []
    for _ in range(IMPORTS + 1):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        seconds.append(time.perf_counter() - started)
    return median(seconds[1:])


def _slowest_imports(module: str, count: int = 5) -> list[tuple[str, float]]:
    """Top-level packages by the time their own modules took, as `python -X importtime` says."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    own: dict[str, float] = {}
    for line in said.splitlines():
        parts = line.removeprefix("import time:").split("|")
        if len(parts) == 3 and parts[0].strip().isdigit():
            package = parts[2].strip().split(".")[0]
            own[package] = own.get(package, 0.0) + int(parts[0]) / 1e6
    return sorted(own.items(), key=lambda item: -item[1])[:count]


def _run(client: Client) -> None:
    client.wait(client.submit("diagnostics", plan=ECHO)["id"], 60)


def _submit_by_threads(dev: Dev) -> list[float]:
    """Seconds of each of the submissions."""
    latencies: list[float] = []

    def work() -> None:
        with dev.client() as client:
            client.ready()
            for _ in range(SUBMISSIONS // CLIENTS):
                started = time.perf_counter()
                client.submit("diagnostics", plan=ECHO)
                latencies.append(time.perf_counter() - started)

    threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies


def _settle(client: Client) -> None:
    """Until nothing runs, so that the next figure is not of this work."""
    deadline = time.monotonic() + 120
    while next(client.tasks(state=["planning", "running"], limit=1), None) is not None:
        if time.monotonic() > deadline:
            raise RuntimeError("submitted tasks do not end within two minutes")
        time.sleep(0.2)


def _p99(values: Sequence[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[98]


def main() -> int:
    options = read_options()
    console = Console() if sys.stdout.isatty() else Console(width=140)
    document = Document("house")
    folder = Path(tempfile.mkdtemp(prefix="orchestrator-house-"))
    house = House(folder, console)
    chosen = {"imports": house.imports, "starts": house.starts, "http": house.http}
    rows: list[Row] = []
    try:
        for name in options.only:
            rows.extend(chosen[name]())
    except (AssertionError, RuntimeError, OrchestratorError) as error:
        console.print(f"house: {error}; the logs are in {folder}", highlight=False)
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    summary = {row["measure"]: row["value"] for row in rows}
    seconds = document.write(options.output, machine=machine(), rows=rows, summary=summary)
    print_sheets(console, [sheet(rows)])
    console.print(f"{options.output} written after {seconds:.0f} s", highlight=False)
    return 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.house", description=__doc__)
    names = ("imports", "starts", "http")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="measure only these")
    parser.add_argument("--output", type=Path, default=Path("build/house.json"), help="%(default)s")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
