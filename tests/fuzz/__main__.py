"""Run schemathesis against a real API, with an admin's key and one of everything in the database: `make fuzz`.

Every answer must be one that `/openapi.json` documents, never a 5xx; what is refused must be refused with a problem.
Fails on any finding, and when fewer than `CASES` cases were sent. Options of schemathesis may follow, like `--seed 7`.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine

from contracts.errors import Failure
from contracts.settlements import Ask, Bury
from orchestrator.client import Client
from orchestrator.embedded import EmbeddedPostgres, EmbeddedRedis
from shared_state import keys, verify
from shared_state.engine import make_engine
from shared_state.migrate import upgrade
from tests.integration.api_server import apply_team, claim, running_api, settle

CASES = 10_000
EXAMPLES = 400
PLAN = {"steps": [{"id": "a", "agent": "write"}, {"id": "b", "agent": "write", "needs": ["a"]}]}
CHECKS = ",".join(
    [
        "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
        "response_schema_conformance", "unsupported_method", "ignored_auth", "use_after_free",
    ]
)  # fmt: skip


def main(options: list[str]) -> int:
    folder = Path(tempfile.mkdtemp(prefix="orchestrator-fuzz-"))
    try:
        with EmbeddedPostgres(folder / "postgres", 18) as postgres, EmbeddedRedis(folder / "redis") as redis:
            upgrade(postgres.url)
            engine = make_engine(postgres.url, pool_size=12)
            key = keys.create(engine, "default", "fuzz", "admin")
            apply_team(engine)
            with running_api(engine, postgres.url, redis.url) as url:
                with Client(url, key) as client:
                    _fill(client, engine)
                code = _run(url, key, folder, options)
            violated = [each for each in verify.violations(engine) if each.kind == "safety"]
            engine.dispose()
        for each in violated:
            print(each)
        return 1 if violated else code
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fill(client: Client, engine: Engine) -> None:
    """Tasks of which one step is dead and one asks, so that lists have rows and ids lead somewhere."""
    for _ in range(3):
        dead = client.submit("letters", plan=PLAN)["id"]
        settle(engine, claim(engine, dead, "a"), Bury(failure=Failure(code="agent.unable", text="no")))
        asking = client.submit("letters", plan=PLAN)["id"]
        settle(engine, claim(engine, asking, "a"), Ask(text="Which?"))


def _run(url: str, key: str, folder: Path, options: list[str]) -> int:
    report = folder / "report.json"
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "run", f"{url}/openapi.json",
        "--header", f"Authorization: Bearer {key}", "--checks", CHECKS, "--max-examples", str(EXAMPLES),
        "--report-json-path", str(report), "--request-timeout", "20", "--continue-on-failure",
        "--workers", "2", "--suppress-health-check", "all", "--warnings", "off", *options,
    ]  # fmt: skip
    began = datetime.now(UTC)
    code = subprocess.run(command, cwd=folder, check=False).returncode
    found = json.loads(report.read_text()) if report.is_file() else {}
    cases = found.get("test_cases", {})
    summary = {
        "cases": cases.get("generated", 0),
        "failures": len(found.get("failures", [])) + len(found.get("errors", [])),
        "operations": found.get("operations", {}).get("tested", 0),
    }
    _write(began, found.get("seed"), summary)
    print(summary)
    if summary["cases"] < CASES and not options:
        print(f"fewer than {CASES} cases were sent")
        return 1
    return code


def _write(began: datetime, seed: object, summary: dict[str, int]) -> None:
    build = Path("build")
    build.mkdir(exist_ok=True)
    result = {
        "name": "fuzz",
        "started_at": began.isoformat(),
        "seconds": (datetime.now(UTC) - began).total_seconds(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "seeds": [seed],
        "rows": [],
        "summary": summary,
    }
    (build / "fuzz.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
