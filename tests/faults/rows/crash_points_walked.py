"""F02: processes die at every crash point, and all is recovered."""

from urllib.parse import urlsplit

from tests.faults.crash_points import walk_in
from tests.faults.row import Row
from tests.faults.scene import Scene
from tests.legal_moves import install as install_legal_moves


def walk(scene: Scene) -> None:
    """In databases of its own, on another database of the same Redis, while this row's load goes on beside it."""
    made: list[str] = []
    folder = scene.folder / "walk"
    folder.mkdir()

    def make_database(name: str, migrated: bool) -> str:
        made.append(f"{scene.database}_{name}")
        url = scene.servers.make_database(made[-1], migrated=migrated)
        if migrated:
            install_legal_moves(url)
        return url

    try:
        walked = walk_in(folder, make_database, _other_database(scene.servers.redis.url), ())
    finally:
        for name in made:
            scene.servers.drop_database(name)
    scene.injected("deaths at a crash point", len(walked))
    scene.facts["recovered"] = f"{sum(each.problem is None for each in walked)}/{len(walked)}"
    for each in walked:
        scene.expect(each.problem is None, f"{each.name}: {each.problem}")


def _other_database(url: str) -> str:
    return urlsplit(url)._replace(path="/1").geturl()


ROWS = (
    Row(
        "F02",
        "a process ends at each crash point in turn",
        "every step commits once; whoever asks again gets the same answer",
        walk,
        seconds=60,
        shortest=60,
        workers=1,
        rate=1,
    ),
)
