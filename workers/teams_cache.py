"""Teams by digest: content-addressed, so what was read once never changes."""

import threading

from sqlalchemy import Engine

from contracts.teams import Team
from shared_state.engine import transaction
from shared_state.teams import load_team


class TeamsCache:
    """Safe to call from several threads; holds every team this process has run."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._teams: dict[tuple[str, str], Team] = {}
        self._lock = threading.Lock()

    def __call__(self, tenant: str, digest: str) -> Team:
        """Raises `NotFound` for a digest that was never applied, `Unavailable` while Postgres is away."""
        team = self._teams.get((tenant, digest))
        if team is None:
            with transaction(self._engine) as connection:
                team = load_team(connection, tenant, digest)
            with self._lock:
                self._teams[tenant, digest] = team
        return team
