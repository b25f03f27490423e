"""One house a module: its own database, an emptied Redis, two workers and the loops, all ended at the end."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest
import redis as redis_client

from orchestrator.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.providers.scripted import ScriptedProvider

from ..conftest import create_database
from .house import House


class MakeHouse(Protocol):
    def __call__(self, *workers: str, **settings: object) -> House: ...


@pytest.fixture(scope="module")
def make_house(
    request: pytest.FixtureRequest,
    postgres: EmbeddedPostgres,
    template_database: str,
    redis_server: EmbeddedRedis,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[MakeHouse]:
    """Makes a house with the named workers and the loops; at the module's end nothing of it is violated or left."""
    made: list[House] = []
    with ExitStack() as stack:

        def make(*workers: str, **settings: object) -> House:
            name = f"{Path(request.path).stem}_{len(made)}"
            create_database(postgres, name, template_database)
            with redis_client.Redis.from_url(redis_server.url) as client:
                client.flushall()
            folder = tmp_path_factory.mktemp("house")
            house = stack.enter_context(House(folder, postgres.url_of(name), redis_server.url, **settings))
            made.append(house)
            house.start_loops()
            house.start_workers(*workers)
            return house

        yield make
        for house in made:
            assert house.violations("safety") == []
            assert house.violated() == []


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    """A model provider on loopback."""
    with ScriptedProvider() as provider:
        yield provider
