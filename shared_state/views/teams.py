"""Teams: those that new tasks can name, and the versions of one."""

from contracts.errors import NotFound
from shared_state.connection import Connection
from shared_state.shapes import Team, TeamDetail
from shared_state.statements import query, run
from shared_state.views import fields
from shared_state.views.fields import Row


def page(connection: Connection, tenant: str, *, limit: int, after: str | None = None) -> list[Team]:
    """The teams that new tasks can name, with the digest they would get; by name."""
    return [_team(row) for row in run(connection, "view_teams", tenant=tenant, after=after, limit=limit)]


def read(connection: Connection, tenant: str, name: str, digest: str | None = None) -> TeamDetail:
    """The newest version of a team, or the one whose digest begins with `digest`."""
    known = query(
        connection,
        "select digest from teams where tenant_id = %(t)s and name = %(name)s order by applied_at desc, digest",
        t=tenant,
        name=name,
    )
    rows = run(connection, "view_team", tenant=tenant, team=name, digest=digest)
    if not rows:
        wanted = f"{name}@{digest}" if digest else name
        raise NotFound(f"there is no team {wanted!r}; `orchestrator teams list` lists yours")
    return {**_team(rows[0]), "definition": rows[0]["definition"], "digests": [row["digest"] for row in known]}


def _team(row: Row) -> Team:
    definition = row["definition"]
    return {
        "name": row["name"],
        "digest": row["digest"],
        "description": definition.get("description", ""),
        "agents": {name: agent.get("role", "executor") for name, agent in definition.get("agents", {}).items()},
        "applied_at": fields.time(row["applied_at"]),
    }
