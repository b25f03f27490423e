"""Commands that steer: pause, resume, drain; and lists of what is held back."""

from contracts.errors import InvalidInput
from orchestrator.cli import output
from orchestrator.cli.output import Json
from orchestrator.client import Client
from shared_state.shapes import Pause


def pause(
    task: str | None = None, *, team: str | None = None, agent: str | None = None, reason: str = "", json: Json = False
) -> None:
    """Pause a task, a team (--team), or one agent of a team (--team, --agent).

    Nothing new of it begins; what runs goes on, and its outcome counts. Deadlines go on running.

    Args:
        team: Every task of this team.
        agent: Only what this agent of the team does.
        reason: Why, for whoever finds it paused.
    """
    _require_one(task, team, agent)
    with Client() as client:
        if task is not None:
            found = client.pause_task(task, reason)
            output.document(found) if json else output.line(f"{found['id']} paused")
        elif team is not None:
            show_pauses(client.pause_team(team, agent, reason=reason), as_json=json)


def resume(task: str | None = None, *, team: str | None = None, agent: str | None = None, json: Json = False) -> None:
    """Resume a task, a team (--team), or one agent of a team (--team, --agent): end the pause of exactly that.

    Args:
        team: The team as a whole.
        agent: This agent of the team.
    """
    _require_one(task, team, agent)
    with Client() as client:
        if task is not None:
            found = client.resume_task(task)
            others = len(found["pauses"])
            note = f"; {others} of its team or agents are in force (`orchestrator pauses`)" if others else ""
            output.document(found) if json else output.line(f"{found['id']} resumed{note}")
        elif team is not None:
            show_pauses(client.resume_team(team, agent), as_json=json)


def list_pauses(*, json: Json = False) -> None:
    """List what is paused: by whom, why, since when, and how many steps wait for it."""
    with Client() as client:
        show_pauses(client.pauses(), as_json=json)


def list_limits(*, json: Json = False) -> None:
    """List the agents whose steps run only so often at once, and how many wait for a place."""
    with Client() as client:
        output.table(
            client.limits(),
            [
                ("TEAM", "team"),
                ("AGENT", "agent"),
                ("AT ONCE", "concurrency"),
                ("RUNNING", "running"),
                ("WAITING", "held"),
            ],
            as_json=json,
            empty="no agent is limited; `concurrency` in a team's file limits one",
        )


def drain(worker: str, *, json: Json = False) -> None:
    """Have one worker process take nothing new, finish what it holds, and end.

    Args:
        worker: Its name (`orchestrator workers`).
    """
    with Client() as client:
        workers = client.drain(worker)
        output.document(workers) if json else output.line(
            f"asked {worker} to drain; `orchestrator workers` shows it in a moment"
        )


def show_pauses(pauses: list[Pause], *, as_json: bool) -> None:
    output.table(
        pauses,
        [
            ("PAUSED", name_of),
            ("HELD", "held"),
            ("BY", "paused_by"),
            ("SINCE", lambda pause: output.moment(pause["paused_at"])),
            ("REASON", lambda pause: output.short(pause["reason"], 60)),
        ],
        as_json=as_json,
        empty="nothing is paused",
    )


def name_of(pause: Pause) -> str:
    """What is paused, in a few words."""
    if pause["task_id"] is not None:
        return f"task {pause['task_id']}"
    return f"team {pause['team']}" if pause["agent"] is None else f"agent {pause['team']}/{pause['agent']}"


def _require_one(task: str | None, team: str | None, agent: str | None) -> None:
    if (task is None) == (team is None):
        raise InvalidInput("name a task, or a team with --team", field="TASK")
    if agent is not None and team is None:
        raise InvalidInput("an agent is one of a team's: name it with --team", field="--agent")
