"""Who calls, and what their role lets them do."""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from enum import StrEnum

from sqlalchemy import Engine

from orchestrator.refusals import Forbidden, Unauthenticated
from shared_state import keys
from shared_state.keys import Caller

REMEMBERED_SECONDS = 5.0
"""How long a revoked key may still work."""
_REMEMBERED_COUNT = 1000


class Permission(StrEnum):
    READ = "read"
    OPERATE = "operate"
    DECIDE = "decide"
    ADMINISTER = "administer"
    """What is everybody's."""


PERMISSIONS: Mapping[str, frozenset[Permission]] = {
    "viewer": frozenset({Permission.READ}),
    "operator": frozenset({Permission.READ, Permission.OPERATE}),
    "approver": frozenset({Permission.READ, Permission.DECIDE}),
    "admin": frozenset(Permission),
}


def allows(caller: Caller, permission: Permission) -> bool:
    return permission in PERMISSIONS.get(caller.role, frozenset())


def demand(caller: Caller, permission: Permission) -> None:
    """Raises `Forbidden` that names the roles which would do."""
    if not allows(caller, permission):
        roles = " or ".join(role for role, granted in PERMISSIONS.items() if permission in granted)
        raise Forbidden(f"this key's role is {caller.role}; to {permission} needs {roles}: ask for such a key")


class Authenticator:
    """Looks keys up, and remembers for a few seconds, by their hash, those that were good."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()

    def caller(self, authorization: str | None) -> Caller:
        """The caller of an `Authorization` header. Raises `Unauthenticated`, or `Unavailable` without a database."""
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise Unauthenticated("send `Authorization: Bearer KEY`; `orchestrator keys create` makes a key")
        digest = hashlib.sha256(key.encode(errors="replace")).digest()
        known = self._recall(digest)
        if known is not None:
            return known
        found = keys.authenticate(self._engine, key) if key.isascii() and key.isprintable() else None
        if found is None:
            raise Unauthenticated(
                "this key is unknown, expired or revoked; `orchestrator keys list` shows the valid ones"
            )
        self._remember(digest, found)
        return found

    def _recall(self, digest: bytes) -> Caller | None:
        with self._lock:
            until, caller = self._known.get(digest, (0.0, None))
            return caller if self._clock() < until else None

    def _remember(self, digest: bytes, caller: Caller) -> None:
        with self._lock:
            self._known[digest] = (self._clock() + REMEMBERED_SECONDS, caller)
            self._known.move_to_end(digest)
            while len(self._known) > _REMEMBERED_COUNT:
                self._known.popitem(last=False)
