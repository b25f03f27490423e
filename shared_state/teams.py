"""Teams in Postgres, by digest: what was applied never changes; a name's head is the digest new tasks start with."""

import hashlib
import json
from typing import Any

from sqlalchemy import Engine

from contracts.errors import NotFound
from contracts.teams import Team
from shared_state.connection import Connection
from shared_state.engine import transaction
from shared_state.outbox import wake_relay
from shared_state.statements import query, run
from shared_state.team_files import find_teams, read_team

__all__ = ["apply", "digest", "find_teams", "head_digest", "list_teams", "load_team", "queues_of_teams", "read_team"]


def digest(team: Team) -> str:
    """sha256, in hex, of the team's canonical JSON."""
    return hashlib.sha256(_canonical(team).encode()).hexdigest()


def apply(engine: Engine, tenant: str, team: Team) -> str:
    """Store a team and make it the one that new tasks of its name start with. Applying it again changes nothing."""
    version = digest(team)
    with transaction(engine) as connection:
        query(
            connection,
            """insert into teams (tenant_id, digest, name, definition)
            values (%(tenant)s, %(digest)s, %(name)s, %(definition)s::jsonb) on conflict do nothing""",
            tenant=tenant, digest=version, name=team.name, definition=_canonical(team),
        )  # fmt: skip
        query(
            connection,
            """insert into team_heads (tenant_id, name, digest) values (%(tenant)s, %(name)s, %(digest)s)
            on conflict (tenant_id, name) do update set digest = excluded.digest, applied_at = clock_timestamp()
            where team_heads.digest <> excluded.digest""",
            tenant=tenant, name=team.name, digest=version,
        )  # fmt: skip
        limits = [
            {"agent": name, "concurrency": agent.concurrency}
            for name, agent in team.agents.items()
            if agent.concurrency
        ]
        run(connection, "keep_limits", tenant=tenant, team=team.name, limits=json.dumps(limits))
        wake_relay(connection)
    return version


def load_team(connection: Connection, tenant: str, version: str) -> Team:
    """Raises `NotFound` for a digest that was never applied."""
    rows = query(
        connection,
        "select definition from teams where tenant_id = %(tenant)s and digest = %(digest)s",
        tenant=tenant, digest=version,
    )  # fmt: skip
    if not rows:
        raise NotFound(f"there is no team with digest {version[:12]}")
    return Team.model_validate(rows[0]["definition"])


def head_digest(connection: Connection, tenant: str, name: str) -> str:
    """The digest of the team that new tasks of this name start with. Raises `NotFound`."""
    rows = query(
        connection,
        "select digest from team_heads where tenant_id = %(tenant)s and name = %(name)s",
        tenant=tenant, name=name,
    )  # fmt: skip
    if not rows:
        raise NotFound(f"there is no team {name!r}; `orchestrator teams list` shows those applied")
    digest: str = rows[0]["digest"]
    return digest


def list_teams(connection: Connection, tenant: str) -> list[dict[str, Any]]:
    """Heads by name: {name, digest, applied_at}."""
    rows = query(
        connection,
        "select name, digest, applied_at from team_heads where tenant_id = %(tenant)s order by name",
        tenant=tenant,
    )
    return [dict(row) for row in rows]


def queues_of_teams(connection: Connection) -> set[str]:
    """The queues that agents of any tenant's teams name, in any version: tasks may be at work with an old one."""
    rows = query(
        connection,
        """select distinct agent.value ->> 'queue' as queue from teams, jsonb_each(definition -> 'agents') as agent
        where agent.value ->> 'queue' is not null""",
    )
    return {row["queue"] for row in rows}


def _canonical(team: Team) -> str:
    return json.dumps(team.model_dump(mode="json"), sort_keys=True)
