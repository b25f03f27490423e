"""`python -m tests.mutation [WORD ...]`: the table of guards, killed and surviving; exit 1 when too many live.

With words, only the mutants whose names contain one of them. Writes build/mutants.json when it has tried all.
"""

import json
import platform
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.mutation.checks import DATABASE, REFINEMENT
from tests.mutation.run import Result, check_baseline, mutants, shared_database, try_mutant

REQUIRED = 0.95


def main(words: Sequence[str]) -> int:
    started, began = time.monotonic(), datetime.now(UTC)
    results: list[Result] = []
    chosen = mutants(words)
    with shared_database() as database:
        seconds = check_baseline(database, (*DATABASE, *REFINEMENT))
        print(f"{len(chosen)} mutants; without any, the tests take {seconds:.0f} s", flush=True)
        for mutant in chosen:
            result = try_mutant(mutant, database, limit_seconds=60 + 4 * seconds)
            results.append(result)
            told = result.by or result.explanation
            print(f"{result.verdict:9} {result.seconds:6.1f} s  {mutant.name:55} {told}", flush=True)
    print_summary(results)
    if not words:
        write_report(results, began, time.monotonic() - started)
    return 0 if is_good(results) else 1


def is_good(results: Sequence[Result]) -> bool:
    """Enough killed, every survivor explained, every explanation still true, every mutant valid."""
    killed = sum(result.killed for result in results)
    sound = all(result.killed != bool(result.explanation) for result in results)
    return sound and killed >= REQUIRED * len(results) and all(result.verdict != "invalid" for result in results)


def print_summary(results: Sequence[Result]) -> None:
    killed = sum(result.killed for result in results)
    print(f"\n{len(results)} guards, {killed} killed ({100 * killed / max(1, len(results)):.1f} %)")
    for result in results:
        if result.verdict == "invalid":
            print(f"  invalid:  {result.mutant.name}: {result.by}")
        elif not result.killed:
            print(f"  survivor: {result.mutant.name}: {result.explanation or 'NOT EXPLAINED'}")
        elif result.explanation:
            print(f"  killed, so its explanation is wrong: {result.mutant.name}")


def write_report(results: Sequence[Result], began: datetime, seconds: float) -> None:
    report = {
        "name": "mutants",
        "started_at": began.isoformat(),
        "seconds": round(seconds, 1),
        "machine": platform.platform(),
        "seeds": [],
        "rows": [
            {
                "guard": result.mutant.name,
                "verdict": result.verdict,
                "by": result.by,
                "seconds": round(result.seconds, 1),
                "explanation": result.explanation,
            }
            for result in results
        ],
        "summary": {"mutants": len(results), "mutants_killed": sum(result.killed for result in results)},
    }
    Path("build").mkdir(exist_ok=True)
    Path("build/mutants.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
