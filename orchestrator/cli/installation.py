"""Commands about the installation, through the API: workers, queues, teams."""

from orchestrator.cli import output
from orchestrator.cli.output import Json
from orchestrator.client import Client


def list_workers(*, json: Json = False) -> None:
    """List worker processes: those that run, and those that went within the last hour."""
    with Client() as client:
        output.table(
            client.workers(),
            [
                ("WORKER", "name"),
                ("STATE", "state"),
                ("HOST", "host"),
                ("PID", "pid"),
                ("QUEUES", lambda worker: ",".join(worker["queues"])),
                ("BUSY", lambda worker: f"{worker['busy']}/{worker['slots']}"),
                ("SEEN", lambda worker: output.moment(worker["seen_at"])),
                ("DRAINED BY", lambda worker: worker["drain_requested_by"] or ""),
            ],
            as_json=json,
            empty="no workers",
        )


def list_queues(*, json: Json = False) -> None:
    """List queues: steps that wait for their turn, that are sent for (again and again until a worker takes them; the
    broker may be away meanwhile), that run, and that may not begin (paused, or over their agent's limit); and what the
    broker really holds."""
    with Client() as client:
        output.table(
            client.queues(),
            [
                ("QUEUE", "queue"),
                ("WAITING", "waiting"),
                ("SENT FOR", "published"),
                ("AGAIN", "republished"),
                ("RUNNING", "running"),
                ("PAUSED", "paused"),
                ("LIMITED", "limited"),
                ("WORKERS", "worker_count"),
                ("BROKER", lambda queue: "no answer" if queue["depth"] is None else queue["depth"]),
            ],
            as_json=json,
            empty="no queues",
        )


def list_teams(*, json: Json = False) -> None:
    """List the teams that tasks can name."""
    with Client() as client:
        output.table(
            client.teams(),
            [
                ("TEAM", "name"),
                ("DIGEST", lambda team: team["digest"][:12]),
                ("AGENTS", lambda team: output.short(", ".join(sorted(team["agents"])), 60)),
                ("APPLIED", lambda team: output.moment(team["applied_at"])),
                ("DESCRIPTION", lambda team: output.short(team["description"], 60)),
            ],
            as_json=json,
            empty="no teams; `orchestrator teams apply DIR` applies some",
        )


def show_team(team: str) -> None:
    """Show one team as JSON: NAME for the current version, NAME@DIGEST for another (the digest's beginning will do)."""
    name, _, digest = team.partition("@")
    with Client() as client:
        output.document(client.team(name, digest or None))
