"""`python -m tests.faults.crash_points [NAME ...]`: real processes die at every crash point, and all is recovered.

One Postgres, one Redis, one database: armed processes come and die side by side, each on work of its own; then one of
each kind comes back without the variable and has to bring everything to its end.
"""

import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.embedded import EmbeddedPostgres, EmbeddedRedis
from shared_state.crash_points import CRASH_AT, CRASH_PERMITTED, EXIT_CODE, POINTS
from shared_state.engine import make_engine
from shared_state.migrate import current_revision, require_served, upgrade
from shared_state.settings import child_environment, load
from tests.conftest import create_database
from tests.faults.crash_scene import Scene
from tests.faults.crash_walks import Course, Walk, walks
from tests.legal_moves import install as install_legal_moves

MIGRATION = "C27"
DEATH_SECONDS = 60.0
LANES = 2
"""How many workers are on their way to their deaths at once, beside one API and one loops process."""


@dataclass(frozen=True)
class Walked:
    """`problem` is null where the process died at the point and all was recovered."""

    name: str
    problem: str | None


def names() -> list[str]:
    return [*(walk.name for walk in walks()), MIGRATION]


def walk_all(scene: Scene, chosen: Sequence[Walk]) -> list[Walked]:
    """Walk them on a scene nobody has used; what is violated in the end counts against all."""
    problems: dict[str, str] = {}
    courses = {walk.name: walk.course(scene) for walk in chosen}
    by_process = {kind: [walk for walk in chosen if walk.process == kind] for kind in ("worker", "loops", "api")}
    lanes = [_lane(scene, by_process["worker"][start::LANES], courses, problems) for start in range(LANES)]
    lanes += [_lane(scene, by_process[kind], courses, problems) for kind in ("loops", "api")]
    while lanes:
        lanes = [lane for lane in lanes if next(lane, _OVER) is not _OVER]
        time.sleep(0.02)
    scene.start_loops()
    scene.start_api()
    scene.start_worker_on([walk.queue for walk in chosen])
    for walk in chosen:
        if walk.name not in problems:
            _go_on(courses[walk.name], walk, problems)
    violated = [str(each) for each in scene.violations()]
    return [Walked(walk.name, problems.get(walk.name) or "; ".join(violated) or None) for walk in chosen]


_OVER = object()


def _lane(scene: Scene, chosen: Sequence[Walk], courses: dict[str, Course], problems: dict[str, str]) -> Iterator[None]:
    """One armed process after the other; yields while it waits for one."""
    for walk in chosen:
        course = courses[walk.name]
        _go_on(course, walk, problems)
        program = ["workers", walk.queue] if walk.process == "worker" else ["orchestrator", walk.process]
        settings = {"republish_seconds": 600.0, **walk.settings}
        member = scene.start_armed(walk.name, program, walk.at or walk.point, **settings)
        deadline = time.monotonic() + DEATH_SECONDS
        while walk.process == "api" and member.pid and not scene.answers() and time.monotonic() < deadline:
            yield
        _go_on(course, walk, problems)
        while member.pid and time.monotonic() < deadline:
            yield
        if member.pid:
            scene.kill_armed(member)
            problems[walk.name] = f"{walk.point} was not reached within {DEATH_SECONDS:g} s: {scene.said(member)}"
        elif wrong := scene.died_at(member, walk.point):
            problems[walk.name] = wrong
        else:
            _go_on(course, walk, problems)


def _go_on(course: Course, walk: Walk, problems: dict[str, str]) -> None:
    """To the next yield, or to the end."""
    try:
        next(course, None)
    except Exception as error:  # one walk's failure must not hide the others'
        at = traceback.extract_tb(error.__traceback__)[1]
        problems.setdefault(walk.name, f"{type(error).__name__} at `{at.line}` (line {at.lineno}): {error}")


def walk_migration(folder: Path, database_url: str) -> Walked:
    """`database_url` is an empty database: the first revision is applied, then the process dies, then it runs again."""
    settings = load({}, None, {"database_url": database_url, "data_dir": folder})
    engine = make_engine(database_url, pool_size=1)
    program = [sys.executable, "-m", "orchestrator", "migrate"]
    environment = {**child_environment(settings), "PATH": "", "PYTHONPATH": str(Path.cwd())}
    armed = {CRASH_AT: MIGRATION, CRASH_PERMITTED: "tests"}
    try:
        died = subprocess.run(program, env={**environment, **armed}, capture_output=True, timeout=60, check=False)
        if died.returncode != EXIT_CODE or f"crash point {MIGRATION}" not in died.stderr.decode():
            return Walked(MIGRATION, f"it ended with {died.returncode}: {died.stderr.decode()[-800:]}")
        if (half := current_revision(engine)) is not None:
            return Walked(MIGRATION, f"half a migration is left: {half}")
        again = subprocess.run(program, env=environment, capture_output=True, timeout=60, check=False)
        if again.returncode:
            return Walked(MIGRATION, f"the second run ended with {again.returncode}: {again.stderr.decode()[-800:]}")
        require_served(engine)
        return Walked(MIGRATION, None)
    finally:
        engine.dispose()


def walk_in(
    folder: Path, make_database: Callable[[str, bool], str], broker_url: str, wanted: Sequence[str]
) -> list[Walked]:
    """`make_database(name, migrated)` gives the URL of a new one; without `wanted` all walks are walked."""
    chosen = [walk for walk in walks() if not wanted or walk.name in wanted]
    walked = []
    if chosen:
        with Scene(folder, make_database("crash_points", True), broker_url) as scene:
            walked = walk_all(scene, chosen)
    if not wanted or MIGRATION in wanted:
        walked.append(walk_migration(folder, make_database("crash_migration", False)))
    return walked


def main(wanted: Sequence[str]) -> int:
    began = time.monotonic()
    unknown = set(wanted) - set(names())
    if unknown:
        print(f"no such walk: {', '.join(sorted(unknown))}; they are {', '.join(names())}")
        return 2
    with tempfile.TemporaryDirectory(prefix="orchestrator-crash-") as name:
        folder = Path(name)
        with EmbeddedPostgres(folder / "postgres") as postgres, EmbeddedRedis(folder / "redis") as redis:

            def make_database(name: str, migrated: bool) -> str:
                create_database(postgres, name)
                if migrated:
                    upgrade(postgres.url_of(name))
                    install_legal_moves(postgres.url_of(name))
                return postgres.url_of(name)

            walked = walk_in(folder, make_database, redis.url, wanted)
    for each in walked:
        print(f"{each.name:16} {each.problem or 'recovered'}")
    recovered = sum(each.problem is None for each in walked)
    points = {each.name.partition(" ")[0] for each in walked}
    print(
        f"{recovered}/{len(walked)} recovered, {len(points)} of {len(POINTS)} points, {time.monotonic() - began:.0f} s"
    )
    return 0 if recovered == len(walked) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
