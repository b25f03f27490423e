"""Play all that was recorded: `make replay`. Writes `build/replay.json`; `--seed N` repeats the faults of a run."""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import warnings
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.embedded import EmbeddedPostgres, EmbeddedRedis
from shared_state.engine import make_engine
from shared_state.migrate import upgrade
from tests.acceptance.house import House
from tests.conftest import create_database
from tests.providers.recordings import load
from tests.replay import conversations, exchanges, faults

BUILD = Path("build/replay.json")
TEMPLATE = "migrated"
SILENCE_SECONDS = 6.0
DEADLINE_SECONDS = 900.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.replay", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    seed: int = parser.parse_args().seed
    data = os.environ.get("ORCHESTRATOR_TEST_DATA")
    if not data:
        print("ORCHESTRATOR_TEST_DATA is not set: it names the folder of test data", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")  # the recordings name models that are out of date
    folder = Path(tempfile.mkdtemp(prefix="orchestrator-replay-"))
    try:
        with EmbeddedPostgres(folder / "postgres", 18) as postgres, EmbeddedRedis(folder / "redis") as redis:
            create_database(postgres, TEMPLATE)
            upgrade(postgres.url_of(TEMPLATE))
            failures = _play(Path(data), seed, folder, postgres, redis)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for failure in failures:
        print(failure)
    return 1 if failures else 0


def _play(data: Path, seed: int, folder: Path, postgres: EmbeddedPostgres, redis: EmbeddedRedis) -> list[str]:
    cassettes = list(load(data).values())
    create_database(postgres, "by_hand", TEMPLATE)
    engine = make_engine(postgres.url_of("by_hand"), pool_size=10)
    table = exchanges.run(engine, cassettes)
    print(*table.lines(), sep="\n", flush=True)
    tapes = conversations.conversations(cassettes)
    whole = conversations.run(engine, tapes)
    print(f"{whole}", flush=True)
    broken = conversations.run(engine, tapes, faults.plan_of_conversations(seed, tapes))
    print(f"with faults, seed {seed}: {broken}", flush=True)
    engine.dispose()

    create_database(postgres, "house", TEMPLATE)
    with House(folder, postgres.url_of("house"), redis.url) as house:
        house.start_loops()
        house.start_workers("w1", "w2")
        report = faults.play(house, faults.chosen(cassettes), seed, SILENCE_SECONDS, DEADLINE_SECONDS)
        violated = [str(each) for each in house.violations("safety")]
    print(*report.lines(), sep="\n", flush=True)

    BUILD.parent.mkdir(exist_ok=True)
    figures = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "exchanges": table.figures(),
        "conversations": vars(whole),
        "conversations with faults": vars(broken),
        "tasks with faults": report.figures(),
    }
    BUILD.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"written: {BUILD}")
    return table.failures + whole.failures + broken.failures + report.failures + violated


if __name__ == "__main__":
    sys.exit(main())
