"""Commands about tasks and steps."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from contracts.errors import InvalidInput
from orchestrator.cli import arguments, batch, output
from orchestrator.cli.attempts import show_attempts
from orchestrator.cli.calls import list_calls, show_calls
from orchestrator.cli.download import save_result
from orchestrator.cli.output import Json
from orchestrator.cli.steering import name_of
from orchestrator.client import Client
from shared_state.shapes import Task

Many = Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=False)]


def submit(
    team: str | None = None,
    *,
    goal: str = "",
    input: Annotated[tuple[str, ...], Parameter(negative="", allow_leading_hyphen=True)] = (),
    plan: str | None = None,
    label: Many = (),
    deadline: float | None = None,
    file: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    idempotency_key: str | None = None,
    wait: Annotated[bool, Parameter(negative="")] = False,
    timeout: float | None = None,
    json: Json = False,
) -> int:
    """Submit a task to a team, or many from a file; prints ids.

    Args:
        team: Name of the team (`orchestrator teams list`). With --file, the team of lines that name none.
        goal: What is wanted, in words.
        input: @file.json or key=value; repeat it. A value is JSON where it parses.
        plan: @file.json with steps that replace the planner.
        label: name=value; repeat it.
        deadline: Seconds after which the task is cancelled.
        file: A task a line, as JSON: {"team": ..., "input": {...}}; - reads standard input. A bad line stops no other.
        idempotency_key: The same key and submission are the same task. With --file, line N gets KEY-N.
        wait: Wait for the end; exit 0 only if it succeeded.
        timeout: How many seconds to wait at most.
    """
    if file is not None:
        if goal or input or plan or label or deadline is not None or wait:
            raise InvalidInput(
                "with --file the lines say what is wanted: give only TEAM and --idempotency-key", field="--file"
            )
        return batch.submit_file(file, team, idempotency_key, as_json=json)
    if team is None:
        raise InvalidInput("name a team, or a file with --file; `orchestrator teams list` lists teams", field="TEAM")
    with Client() as client:
        task = client.submit(
            team,
            goal=goal,
            input=arguments.read_input(input),
            plan=arguments.read_object(plan, "--plan") if plan else None,
            labels=arguments.read_labels(label),
            deadline_seconds=deadline,
            idempotency_key=idempotency_key,
        )
        return _started(client, task, wait, timeout, json)


def list_tasks(
    *, state: Many = (), team: str | None = None, label: str | None = None, limit: int = 50, json: Json = False
) -> None:
    """List tasks, newest first.

    Args:
        state: Only in this state; repeat it for several.
        team: Only of this team.
        label: Only with this label, name=value.
        limit: How many at most.
    """
    with Client() as client:
        output.table(
            client.tasks(state=state, team=team, label=label, limit=limit),
            [
                ("TASK", "id"),
                ("TEAM", "team"),
                ("STATE", "state"),
                ("STEPS", lambda task: output.counts(task["step_counts"])),
                ("CREATED", lambda task: output.moment(task["created_at"])),
                ("FINISHED", lambda task: output.moment(task["finished_at"])),
            ],
            as_json=json,
            empty="no tasks",
        )


def status(task: str, *, json: Json = False) -> None:
    """Show one task."""
    with Client() as client:
        found = client.task(task)
        output.document(found) if json else _show(found)


def result(task: str, *, output_dir: Annotated[Path | None, Parameter(name="--output")] = None) -> int:
    """Print a task's result as JSON, or write it and the artifacts it names to a directory.

    Args:
        output_dir: Directory to write to; made if it is not there.
    """
    with Client() as client:
        found = client.result(task)
        if output_dir is None:
            output.document(found)
        else:
            for path in save_result(client, found, output_dir):
                output.line(str(path))
    return 0 if found["state"] == "succeeded" else 1


def cancel(task: str, *, json: Json = False) -> None:
    """Cancel a task; nothing of it is committed afterwards."""
    with Client() as client:
        found = client.cancel(task)
        output.document(found) if json else output.line(f"{found['id']} {found['state']}")


def fork(
    task: str,
    *,
    from_step: Annotated[str, Parameter(name="--from")],
    edit: str | None = None,
    idempotency_key: str | None = None,
    wait: Annotated[bool, Parameter(negative="")] = False,
    timeout: float | None = None,
    json: Json = False,
) -> int:
    """Start a task with what this one has accepted before a step; that step, and what follows, is done again.

    The task may be in any state, and is left as it is. Prints the new task's id.

    Args:
        from_step: The step to begin with: its key (`orchestrator steps TASK`), or its id.
        edit: @file.json with another input for that step.
        idempotency_key: The same key and request are the same fork.
        wait: Wait for the end; exit 0 only if it succeeded.
        timeout: How many seconds to wait at most.
    """
    with Client() as client:
        made = client.fork(
            task,
            from_step,
            edit=arguments.read_object(edit, "--edit") if edit else None,
            idempotency_key=idempotency_key,
        )
        return _started(client, made, wait, timeout, json)


def list_events(task: str, *, limit: int | None = None, json: Json = False) -> None:
    """List what has happened to a task, oldest first (`watch` follows it live)."""
    with Client() as client:
        output.table(
            client.past_events(task, limit=limit),
            [
                ("AT", lambda event: output.moment(event["at"])),
                ("EVENT", "type"),
                ("STEP", lambda event: event["step_key"] or ""),
                ("DATA", lambda event: output.short(event["data"], 100) if event["data"] else ""),
            ],
            as_json=json,
            empty="no events",
        )


def list_steps(task: str, *, state: Many = (), limit: int | None = None, json: Json = False) -> None:
    """List a task's steps, parents first."""
    with Client() as client:
        output.table(
            client.steps(task, state=state, limit=limit),
            [
                ("STEP", "id"),
                ("KEY", "key"),
                ("AGENT", "agent"),
                ("STATE", lambda step: f"{step['state']}, shared" if step["shared_from"] else step["state"]),
                ("ATTEMPTS", "attempt_count"),
                ("REJECTED", "rejection_count"),
                ("WORKER", lambda step: step["worker"] or ""),
                ("FINISHED", lambda step: output.moment(step["finished_at"])),
            ],
            as_json=json,
            empty="no steps",
        )


def show_step(step: str, *, calls: bool = False, json: Json = False) -> None:
    """Show one step: attempts, verdicts, proposals, events.

    Args:
        calls: show every call to a model instead: exactly what was said at each turn, and what was answered.
    """
    with Client() as client:
        found = client.step(step)
        if calls:
            bodies = [client.model_call(step, each["epoch"], each["ordinal"]) for each in found["model_calls"]]
            output.document(bodies) if json else show_calls(bodies)
            return
    if json:
        output.document(found)
        return
    plain = (
        "id",
        "task_id",
        "key",
        "agent",
        "reviewer",
        "queue",
        "state",
        "shared_from",
        "degraded",
        "held",
        "worker",
        "due_at",
        "trace_id",
    )
    output.facts([(name, value) for name, value in found.items() if name in plain])
    output.facts([("needs", ", ".join(found["needs"])), ("input", output.short(found["input"], 400))])
    if found["state"] == "succeeded":
        output.facts([("output", output.short(found["output"], 400))])
    show_attempts(found["attempts"])
    list_calls(found["model_calls"])
    for event in found["events"]:
        output.line(f"{output.moment(event['at'])} {event['type']}")


def _started(client: Client, task: Task, wait: bool, timeout: float | None, json: bool) -> int:
    if not wait:
        output.document(task) if json else output.line(task["id"])
        return 0
    ended = client.wait(task["id"], timeout)
    output.document(ended) if json else _show(ended)
    return 0 if ended["state"] == "succeeded" else 1


def _show(task: Any) -> None:
    plain = ("id", "team", "state", "goal", "created_at", "deadline_at", "finished_at")
    output.facts([(name, task[name]) for name in plain])
    output.facts([("degraded", "yes" if task["degraded"] else ""), ("labels", task["labels"])])
    origin = task["forked_from"]
    if origin is not None:
        edited = " with another input" if origin["edited"] else ""
        shown = f"{origin['task_id']} at step {origin['step']}{edited}, by {origin['actor']}"
        output.facts([("forked from", shown)])
    output.facts([("steps", output.counts(task["step_counts"]))])
    for pause in task.get("pauses", ()):
        reason = f": {output.short(pause['reason'])}" if pause["reason"] else ""
        where = "" if pause["task_id"] else f" ({name_of(pause)})"
        output.facts([("paused", f"since {output.moment(pause['paused_at'])} by {pause['paused_by']}{where}{reason}")])
    if task["error"]:
        where = f" (step {task['error']['step']})" if "step" in task["error"] else ""
        output.facts([("error", f"{task['error']['code']}: {task['error']['text']}{where}")])
