"""API keys: 256 random bits, shown once, stored as a digest; each has a tenant, a role and maybe an end."""

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Engine

from contracts.errors import Conflict, InvalidInput, NotFound
from shared_state.engine import new_id, transaction
from shared_state.statements import query

_KEY = re.compile(r"^ork_[0-9a-f]{8}_[A-Za-z0-9_-]{43}$")
_LIVE = """select id from api_keys where tenant_id = %(tenant)s and revoked_at is null
    and (expires_at is null or expires_at > clock_timestamp())"""
_TENANT = re.compile(r"^[a-z0-9][a-z0-9_-]{0,62}$")


class KeyRole(StrEnum):
    """viewer reads; operator also submits, cancels and redrives; approver reads and decides; admin does all."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"


@dataclass(frozen=True)
class Caller:
    """`prefix` names the key itself, of which a name may have several one after the other."""

    tenant: str
    name: str
    role: KeyRole
    prefix: str


def create(engine: Engine, tenant: str, name: str, role: str, expires_at: datetime | None = None) -> str:
    """Make a key, and its tenant if it is new. The returned text is the only copy.

    `Conflict` while the tenant has a live key of that name: what a name did must be what one key did.
    """
    if role not in set(KeyRole):
        raise InvalidInput(f"there is no role {role!r}; use one of {', '.join(KeyRole)}", field="role")
    if not _TENANT.match(tenant):
        raise InvalidInput("a tenant is 1 to 63 of a-z, 0-9, - and _, not starting with - or _", field="tenant")
    if not name or len(name) > 100 or not name.isprintable():
        raise InvalidInput("a key's name is 1 to 100 printable characters", field="name")
    prefix = secrets.token_hex(4)
    key = f"ork_{prefix}_{secrets.token_urlsafe(32)}"
    with transaction(engine) as connection:
        query(connection, "insert into tenants (id) values (%(tenant)s) on conflict do nothing", tenant=tenant)
        # The lock makes the look and the insert one: of two that make the same name at once, one is told.
        query(connection, "select id from tenants where id = %(tenant)s for no key update", tenant=tenant)
        if query(connection, _LIVE + " and name = %(name)s", tenant=tenant, name=name):
            raise Conflict(
                f"tenant {tenant} has a live key named {name!r}: choose another name, or revoke that one first "
                f"(`orchestrator keys revoke {name!r}`)"
            )
        query(
            connection,
            """insert into api_keys (id, tenant_id, name, role, digest, prefix, expires_at)
            values (%(id)s, %(tenant)s, %(name)s, %(role)s, %(digest)s, %(prefix)s, %(expires_at)s)""",
            id=new_id(), tenant=tenant, name=name, role=role, digest=_digest(key), prefix=prefix,
            expires_at=expires_at,
        )  # fmt: skip
    return key


def authenticate(engine: Engine, key: str) -> Caller | None:
    """Who a key belongs to; None when it is unknown, revoked or past its end.

    Looked up by the digest of the whole key, so there is nothing to compare byte by byte.
    """
    if not _KEY.match(key):
        return None
    with transaction(engine) as connection:
        rows = query(
            connection,
            """select tenant_id, name, role, prefix from api_keys
            where digest = %(digest)s and revoked_at is null
                and (expires_at is null or expires_at > clock_timestamp())""",
            digest=_digest(key),
        )
    if not rows:
        return None
    return Caller(rows[0]["tenant_id"], rows[0]["name"], KeyRole(rows[0]["role"]), rows[0]["prefix"])


def list_keys(engine: Engine, tenant: str) -> Sequence[dict[str, Any]]:
    with transaction(engine) as connection:
        rows = query(
            connection,
            """select name, role, prefix, created_at, expires_at, revoked_at from api_keys
            where tenant_id = %(tenant)s order by created_at, id""",
            tenant=tenant,
        )
    return [dict(row) for row in rows]


def revoke(engine: Engine, tenant: str, name_or_prefix: str) -> int:
    """Revoke every live key of that name or prefix; returns how many. `NotFound` when there is none."""
    with transaction(engine) as connection:
        rows = query(
            connection,
            """update api_keys set revoked_at = clock_timestamp()
            where tenant_id = %(tenant)s and (name = %(which)s or prefix = %(which)s) and revoked_at is null
            returning id""",
            tenant=tenant,
            which=name_or_prefix,
        )
    if not rows:
        raise NotFound(f"tenant {tenant} has no live key {name_or_prefix!r}")
    return len(rows)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
