"""`teams apply`: from a directory of TOML, prompts and code to the teams that tasks can name; `teams copy`: a start."""

import shutil
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from contracts.errors import InvalidInput
from orchestrator.cli import output
from orchestrator.dev.teams import built_in_teams
from shared_state.engine import make_engine
from shared_state.migrate import require_served
from shared_state.settings import from_environment
from shared_state.team_files import find_teams, read_team
from shared_state.teams import apply as apply_team


def apply(
    directory: Path | None = None,
    *,
    built_in: Annotated[bool, Parameter(negative="")] = False,
    tenant: str = "default",
) -> None:
    """Read the teams of a directory, check all of them, then make them the current ones. Works on the database.

    Args:
        directory: A team's folder, or a folder of such folders.
        built_in: The teams that come with the project.
        tenant: Whose teams they become.
    """
    folders = [*(built_in_teams() if built_in else []), *(find_teams(directory) if directory else [])]
    if not folders:
        raise InvalidInput(
            "name a directory that holds a team.toml, or folders with one; or use --built-in", field="DIR"
        )
    teams = [read_team(folder) for folder in folders]
    engine = make_engine(from_environment().database_url, pool_size=0)
    require_served(engine)
    for team in teams:
        output.line(f"{team.name} {apply_team(engine, tenant, team)}")


def copy(team: str, directory: Path) -> None:
    """Copy a built-in team's file and prompts; its code stays where it is. Applied, the copy takes the team's place.

    Args:
        team: Name of a built-in team.
        directory: The folder to write to; made if it is not there.
    """
    folders = {folder.name: folder for folder in built_in_teams()}
    if team not in folders:
        raise InvalidInput(f"there is no built-in team {team!r}; there are {', '.join(sorted(folders))}", field="TEAM")
    directory.mkdir(parents=True, exist_ok=True)
    files = [file for file in sorted(folders[team].iterdir()) if file.suffix in (".toml", ".md")]
    taken = next((file.name for file in files if (directory / file.name).exists()), None)
    if taken is not None:
        raise InvalidInput(f"{directory / taken} is there already; name another folder", field="DIRECTORY")
    for file in files:
        shutil.copyfile(file, directory / file.name)
        output.line(str(directory / file.name))
