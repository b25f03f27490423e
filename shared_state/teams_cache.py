"""Teams by digest: content-addressed, so what was read once never changes and need not be read or checked again."""

import threading

from sqlalchemy import Engine

from contracts.teams import Team
from shared_state.connection import Connection
from shared_state.engine import transaction
from shared_state.teams import head_digest, load_team


class TeamsCache:
    """Safe to call from several threads; holds every team that this process has seen."""

    def __init__(self) -> None:
        self._teams: dict[tuple[str, str], Team] = {}
        self._lock = threading.Lock()

    def get(self, engine: Engine, tenant: str, digest: str) -> Team:
        """Raises `NotFound` for a digest that was never applied, `Unavailable` while Postgres is away."""
        team = self._teams.get((tenant, digest))
        if team is None:
            with transaction(engine) as connection:
                team = self._load(connection, tenant, digest)
        return team

    def head(self, connection: Connection, tenant: str, name: str) -> tuple[str, Team]:
        """The digest and team that new tasks of this name start with, asked anew each time. Raises `NotFound`."""
        digest = head_digest(connection, tenant, name)
        return digest, self._teams.get((tenant, digest)) or self._load(connection, tenant, digest)

    def _load(self, connection: Connection, tenant: str, digest: str) -> Team:
        team = load_team(connection, tenant, digest)
        with self._lock:
            self._teams[tenant, digest] = team
        return team
