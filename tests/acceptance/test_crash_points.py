"""Real processes die at every crash point, once each; `python -m tests.faults.crash_points` walks the variants too."""

import pytest
import redis as redis_client

from orchestrator.embedded import EmbeddedPostgres, EmbeddedRedis
from shared_state.crash_points import POINTS
from tests.faults.crash_points import names, walk_in

from ..conftest import create_database


@pytest.fixture(scope="module")
def problems(
    postgres: EmbeddedPostgres,
    template_database: str,
    redis_server: EmbeddedRedis,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str | None]:
    """By point: null, or what went wrong on the way there or back."""

    def make_database(name: str, migrated: bool) -> str:
        create_database(postgres, name, template_database if migrated else "template0")
        return postgres.url_of(name)

    with redis_client.Redis.from_url(redis_server.url) as client:
        client.flushall()
    chosen = [name for name in names() if name in POINTS]
    walked = walk_in(tmp_path_factory.mktemp("crash"), make_database, redis_server.url, chosen)
    return {each.name: each.problem for each in walked}


def test_every_point_of_the_list_has_a_walk() -> None:
    assert {name.partition(" ")[0] for name in names()} == set(POINTS)
    assert set(POINTS) <= set(names())


@pytest.mark.timeout(300)
@pytest.mark.parametrize("point", POINTS)
def test_a_process_dies_there_and_all_is_recovered(problems: dict[str, str | None], point: str) -> None:
    assert problems[point] is None
