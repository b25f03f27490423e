"""Commands that work directly on the database: migrate, check, verify."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Engine

from contracts.errors import InvalidInput, Misconfigured, OrchestratorError
from contracts.topology import QUEUE_OF_ROLE
from orchestrator.cli import output
from orchestrator.cli.output import Json
from orchestrator.models import describe_default, lacks
from shared_state import tenant_wall
from shared_state.artifacts import open_bodies
from shared_state.broker.app import make_app, signing_keys
from shared_state.broker.publisher import Publisher
from shared_state.engine import lost_settings, make_engine, transaction
from shared_state.migrate import require_served, upgrade
from shared_state.restore import make_current
from shared_state.settings import Settings, from_environment, masked
from shared_state.statements import query
from shared_state.team_files import find_teams, read_team
from shared_state.verify import violations

T = TypeVar("T")


def check(*teams: Path, json: Json = False) -> int:
    """Say whether settings, signing keys, database, schema, broker and the named teams are right; exits 1 if not.

    Args:
        teams: Directories of teams to check, without applying them.
    """
    findings: list[dict[str, str]] = []
    settings = _checked(findings, "settings", from_environment, lambda found: f"data in {found.data_dir}")
    if settings is not None:
        _check_servers(findings, settings)
        findings.append({"what": "model", **describe_default(settings)._asdict()})
    for folder in teams:
        for place in _checked(findings, str(folder), partial(_folders, folder), None) or []:
            team = _checked(findings, str(place), partial(read_team, place), lambda found: f"team {found.name}")
            if team is not None and settings is not None:
                # Not wrong: the workers may run elsewhere.
                findings += [{"what": str(place), "status": "none", "text": text} for text in lacks(team, settings)]
    output.table(
        findings, [("WHAT", "what"), ("STATUS", "status"), ("TEXT", "text")], as_json=json, empty="nothing to check"
    )
    return 1 if any(finding["status"] == "wrong" for finding in findings) else 0


def migrate() -> None:
    """Bring the database's schema to this version's. Safe to run twice, or from several machines at once."""
    settings = from_environment()
    upgrade(settings.database_url)
    output.line(f"{masked(settings.database_url)} serves this release")
    reason = tenant_wall.weakness(make_engine(settings.database_url, pool_size=0))
    output.line(f"row-level security is NOT in force: {reason}" if reason else "row-level security binds the API")


def restored() -> None:
    """Make a database current that comes out of a backup. Once, after `migrate` and before any part is started."""
    engine = make_engine(from_environment().database_url, pool_size=0)
    require_served(engine)
    done = make_current(engine)
    output.line(
        f"{done.leases} leases of the time of the backup are over, {done.steps} open steps go on, "
        f"{done.events} events are of the past; what workers of before still hold is void"
    )


def verify(*, json: Json = False) -> int:
    """Check the invariants of everything stored; prints violations, and exits 1 if there are any."""
    engine = make_engine(from_environment().database_url, pool_size=0)
    found = violations(engine)
    output.table(
        [
            {"invariant": each.invariant, "kind": each.kind, "meaning": each.meaning, "id": each.id, "text": each.text}
            for each in found
        ],
        [("INVARIANT", "invariant"), ("KIND", "kind"), ("ID", "id"), ("TEXT", "text")],
        as_json=json,
        empty="no violations",
    )
    return 1 if found else 0


def _check_servers(findings: list[dict[str, str]], settings: Settings) -> None:
    engine = make_engine(settings.database_url, pool_size=0)
    where = masked(settings.database_url)
    _checked(findings, "database", lambda: require_served(engine), lambda _: f"{where}, it serves this release")
    if not any(finding["status"] == "wrong" for finding in findings):
        _check_wall(findings, settings, engine)
        _checked(findings, "session", partial(_require_session, engine), lambda _: "its settings reach Postgres")
    keys = _checked(
        findings, "signing keys", partial(signing_keys, settings), lambda _: ", ".join(settings.signing_keys)
    )
    if keys is None:
        return
    publisher = Publisher(make_app(settings), keys)
    where = masked(settings.broker_url)
    _checked(findings, "broker", lambda: publisher.queue_depth(list(QUEUE_OF_ROLE.values())), lambda _: where)
    publisher.close()
    _checked(findings, "artifacts", lambda: open_bodies(settings.artifact_url), lambda _: masked(settings.artifact_url))


def _check_wall(findings: list[dict[str, str]], settings: Settings, engine: Engine) -> None:
    """Without it everything works, so that it is missing is wrong only where it is required."""
    reason = tenant_wall.weakness(engine)
    status = "ok" if reason is None else "wrong" if settings.row_level_security == "require" else "weak"
    text = f"row-level security is NOT in force: {reason}" if reason else "row-level security binds the API"
    findings.append({"what": "tenants", "status": status, "text": text})


def _require_session(engine: Engine) -> None:
    """Raises `Misconfigured` where a pooler drops what our connections ask for."""
    with transaction(engine) as connection:
        rows = query(connection, "select name, setting from pg_settings")
    remedy = lost_settings({row["name"]: row["setting"] for row in rows})
    if remedy is not None:
        raise Misconfigured(f"a pooler drops the settings of our connections; run once, as their login: {remedy}")


def _folders(directory: Path) -> list[Path]:
    folders = find_teams(directory)
    if not folders:
        raise InvalidInput(f"{directory}: there is no team.toml in it or one folder below")
    return folders


def _checked(
    findings: list[dict[str, str]], what: str, look: Callable[[], T], say: Callable[[T], str] | None
) -> T | None:
    """Note what a look at one thing found; its value, or None where it is wrong."""
    try:
        found = look()
    except OrchestratorError as error:
        findings.append({"what": what, "status": "wrong", "text": error.text})
        return None
    if say is not None:
        findings.append({"what": what, "status": "ok", "text": say(found)})
    return found
