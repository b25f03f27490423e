"""Runs a whole survey in one process, gates included, without any server: plan, every read, join."""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from contracts import Done, Plan, Result
from contracts.context import Context
from contracts.testing import context
from workers.gates import Subject, run_gates
from workers.teams.survey import agents
from workers.teams.survey.shapes import Group, Joint, Read, Survey, Wish

OUTPUT_LIMIT = 64_000_000


def survey(folder: Path, out: Path, **wish: Any) -> tuple[Done, Plan]:
    """Write the report into `out` and return what the task would have returned, and its plan."""
    ctx = context()
    plan = agents.plan(ctx, Wish(path=str(folder), **wish))
    assert isinstance(plan, Plan), plan
    *readers, join = plan.steps
    inputs = {}
    for step in readers:
        done = agents.read(ctx, Group.model_validate(step.input))
        inputs[step.id] = accept("read", done, Read, step.input)
    joining: Context = replace(ctx, inputs=inputs)
    done = agents.join(joining, Joint.model_validate(join.input))
    accept("join", done, Survey, join.input)
    assert isinstance(done, Done)
    out.mkdir(parents=True, exist_ok=True)
    for name, ref in done.output.files.items():
        (out / name).write_bytes(ctx.artifacts.get(ref))
    return done, plan


def accept(agent: str, done: object, shape: type[Read | Survey], given: dict[str, Any]) -> Any:
    """The output as JSON, once the gates have passed it."""
    assert isinstance(done, Done), done
    output = json.loads(done.output.model_dump_json())
    subject = Subject(
        agent=agent,
        output=output,
        input=given,
        output_schema=shape.model_json_schema(mode="serialization"),
        output_bytes_limit=OUTPUT_LIMIT,
    )
    for verdict in run_gates(["files"], subject):
        assert verdict.result is Result.PASS, verdict
    return output


if __name__ == "__main__":
    started = time.monotonic()
    finished, planned = survey(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"{len(planned.steps)} steps, {time.monotonic() - started:.1f} s, degraded: {finished.degraded}")
    print(
        json.dumps({k: v for k, v in finished.output.summary.model_dump().items() if not isinstance(v, list)}, indent=1)
    )
    print({name: os.path.getsize(Path(sys.argv[2]) / name) for name in finished.output.files})
