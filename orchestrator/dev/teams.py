"""Teams of a dev server: the built-in ones at its start, the user's at its start and whenever a file changes."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sqlalchemy import Engine

import contracts
from contracts.errors import InvalidInput, OrchestratorError
from shared_state.team_files import FILE, find_teams, read_team
from shared_state.teams import apply

LOOK_SECONDS = 1.0
_SUFFIXES = {".toml", ".md", ".py"}

Signature = frozenset[tuple[str, int, int]]


def built_in_teams() -> list[Path]:
    """The folders of the teams that come with the project. Found by path: nothing of theirs is imported here."""
    return find_teams(Path(contracts.__file__).parents[1] / "workers" / "teams")


def apply_built_in(engine: Engine, tenant: str) -> None:
    with ThreadPoolExecutor(max_workers=2) as pool:
        for team in pool.map(read_team, built_in_teams()):
            apply(engine, tenant, team)


def import_paths(folder: Path) -> list[Path]:
    """Where workers find the agents of the teams in `folder`: itself and each team's own. Raises `InvalidInput`."""
    return list(dict.fromkeys([folder.absolute(), *(found.absolute() for found in find_teams(folder))]))


class TeamsWatch:
    """Applies the teams in a folder, and again after a change. A mistake is told and waits for the next change."""

    def __init__(self, engine: Engine, tenant: str, folder: Path, tell: Callable[[str], None]) -> None:
        self._engine = engine
        self._tenant = tenant
        self._folder = folder
        self._tell = tell
        self._seen: Signature = frozenset()
        self._importable = import_paths(folder)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="teams", daemon=True)

    def start(self) -> None:
        """Apply once, then watch. Raises `InvalidInput` for a mistake in the first place."""
        self._seen = signature(self._folder)
        self._apply()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _watch(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            now = signature(self._folder)
            if now == self._seen:
                continue
            self._seen = now
            try:
                self._apply()
            except OrchestratorError as error:
                self._tell(f"teams not applied: {error.text}")

    def _apply(self) -> None:
        folders = find_teams(self._folder)
        if not folders:
            raise InvalidInput(f"{self._folder}: there is no {FILE} in it or one folder below")
        for folder in folders:
            team = read_team(folder)
            self._tell(f"team {team.name} is applied ({apply(self._engine, self._tenant, team)[:12]})")
            if folder.absolute() not in self._importable:
                self._tell(f"{folder} is new: restart to let workers import agents from it")


def signature(folder: Path) -> Signature:
    """Name, size and time of every file a team can be made of. A file that vanishes meanwhile is not there."""
    found = set()
    for path in folder.rglob("*"):
        if path.suffix in _SUFFIXES:
            try:
                status = path.stat()
            except OSError:
                continue
            found.add((str(path), status.st_mtime_ns, status.st_size))
    return frozenset(found)
