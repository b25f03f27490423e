"""Commands about API keys. They work directly on the database: that is how the first key is made."""

from datetime import UTC, datetime, timedelta
from typing import Literal

from sqlalchemy import Engine

from contracts.errors import InvalidInput
from orchestrator.cli import output
from orchestrator.cli.output import Json
from shared_state import keys
from shared_state.engine import make_engine
from shared_state.migrate import require_served
from shared_state.settings import from_environment

_DAYS_LIMIT = 36_500


def create(
    *,
    role: Literal["viewer", "operator", "approver", "admin"],
    name: str,
    tenant: str = "default",
    days: float | None = None,
) -> None:
    """Make a key and print it, once: only its hash is kept.

    Args:
        role: viewer reads; operator also submits, cancels, redrives; approver reads and answers; admin does all.
        name: Who or what it is for.
        tenant: Made if it is new.
        days: After how many days it expires; never unless given.
    """
    if days is not None and not 0 < days <= _DAYS_LIMIT:
        raise InvalidInput(f"--days: {days:g} is not between 0 and {_DAYS_LIMIT}", field="--days")
    expires_at = datetime.now(UTC) + timedelta(days=days) if days is not None else None
    output.line(keys.create(_engine(), tenant, name, role, expires_at))


def list_keys(*, tenant: str = "default", json: Json = False) -> None:
    """List the keys of a tenant; never the keys themselves."""
    rows = [
        {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}
        for row in keys.list_keys(_engine(), tenant)
    ]
    output.table(
        rows,
        [
            ("NAME", "name"),
            ("ROLE", "role"),
            ("PREFIX", "prefix"),
            ("CREATED", lambda row: output.moment(row["created_at"])),
            ("EXPIRES", lambda row: output.moment(row["expires_at"]) or "never"),
            ("REVOKED", lambda row: output.moment(row["revoked_at"])),
        ],
        as_json=json,
        empty=f"tenant {tenant} has no keys",
    )


def revoke(which: str, *, tenant: str = "default") -> None:
    """Revoke every live key of this name or prefix; within seconds they open nothing.

    Args:
        which: A key's name or prefix (`orchestrator keys list`).
    """
    output.line(f"revoked {keys.revoke(_engine(), tenant, which)}")


def _engine() -> Engine:
    engine = make_engine(from_environment().database_url, pool_size=0)
    require_served(engine)
    return engine
