"""build/faults.json, and the marked places of docs/reliability.md that are filled from it."""

import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import machine
from tests.faults.report import ablations_sheet, rows_sheet, totals_sheet
from tests.faults.result import Result
from tests.faults.scene import KILLS, MASSACRES, RESTARTS, WIPES


def make_document(results: Sequence[Result], *, seed: int, began: float, scope: str) -> dict[str, Any]:
    """`scope` says, for people, what was left out on purpose or shortened; empty for a whole run."""
    return {
        "name": "faults",
        "started_at": datetime.fromtimestamp(began, UTC).isoformat(),
        "seconds": time.time() - began,
        "seed": seed,
        "scope": scope,
        "machine": machine(),
        "rows": [result.document() for result in results],
        "totals": totals([result for result in results if result.ablation is None and result.skipped is None]),
    }


def totals(results: Sequence[Result]) -> dict[str, tuple[int, int, str]]:
    """By name: how many, of how many of what (0 where it is only a count)."""
    injected: Counter[str] = Counter()
    for result in results:
        injected.update(result.injected)
    tallies = [result.tally for result in results]
    tasks = sum(tally.tasks for tally in tallies)
    commits = sum(tally.commits for tally in tallies)
    expired = sum(tally.expired_attempts for tally in tallies)
    looks = sum(result.looks for result in results)
    return {
        KILLS: (injected[KILLS], 0, ""),
        WIPES: (injected[WIPES], 0, ""),
        f"{RESTARTS} and {MASSACRES}": (injected[RESTARTS] + injected[MASSACRES], 0, ""),
        "lost tasks": (sum(tally.lost for tally in tallies), tasks, "tasks"),
        "tasks ended otherwise": (sum(tally.ended_otherwise for tally in tallies), tasks, "tasks"),
        "double commits": (sum(tally.double_commits for tally in tallies), commits, "commits"),
        "zombie commits": (sum(tally.zombie_commits for tally in tallies), expired, "expired attempts"),
        "invariant violations": (sum(result.violations for result in results), looks, "looks"),
        "bodies run twice": (
            sum(tally.bodies_twice for tally in tallies),
            sum(each.bodies for each in tallies),
            "bodies",
        ),
        "rows that did not hold": (sum(not result.held for result in results), len(results), "rows"),
    }


def write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def fill(path: Path, document: dict[str, Any]) -> None:
    """Between `<!-- NAME: ... -->` and `<!-- end -->` the text is replaced. Raises `ValueError` where a place lacks."""
    text = path.read_text(encoding="utf-8")
    rows = rows_sheet(document)
    blocks = {"rows": rows.markdown(), "totals": _origin(document) + "\n" + totals_sheet(document).markdown()}
    if (ablations := ablations_sheet(document)).rows:
        blocks["ablation"] = ablations.markdown()
    for name, block in blocks.items():
        text, count = re.subn(
            rf"(<!-- {name}: [^>]*-->\n).*?(<!-- end -->)",
            lambda match, block=block: f"{match[1]}{block}{match[2]}",
            text,
            flags=re.DOTALL,
        )
        if count != 1:
            raise ValueError(f"{path} has {count} places for {name!r}, not one")
    path.write_text(text, encoding="utf-8")


def _origin(document: dict[str, Any]) -> str:
    machine = document["machine"]
    part = f" ({document['scope']})" if document["scope"] else ""
    return (
        f"Measured {document['started_at'][:10]} in {document['seconds'] / 60:.0f} minutes{part}, seed "
        f"{document['seed']}: {machine['cpus']} cores, load {machine['load_average'][2]:.1f} at the end, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, {machine['system']}, Python {machine['python']}.\n"
    )
