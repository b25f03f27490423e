"""One house a module: its own database, an emptied broker, two workers and the loops, all ended at the end."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from orchestrator.embedded import EmbeddedPostgres
from tests.providers.scripted import ScriptedProvider

from ..brokers import TestBroker
from ..conftest import CHOICE, create_database
from .house import House


class MakeHouse(Protocol):
    def __call__(self, *workers: str, **settings: object) -> House: ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On another broker those tests count that live in a house; the others bring their own Redis along."""
    if os.environ.get(CHOICE, "redis") != "redis":
        for item in items:
            if Path(__file__).parent in item.path.parents and "make_house" not in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.skip(reason=f"it brings its own Redis along, whatever {CHOICE} says"))


@pytest.fixture(scope="module")
def make_house(
    request: pytest.FixtureRequest,
    postgres: EmbeddedPostgres,
    template_database: str,
    broker_of_choice: TestBroker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[MakeHouse]:
    """Makes a house with the named workers and the loops; at the module's end nothing of it is violated or left."""
    made: list[House] = []
    with ExitStack() as stack:

        def make(*workers: str, **settings: object) -> House:
            name = f"{Path(request.path).stem}_{len(made)}"
            create_database(postgres, name, template_database)
            broker_of_choice.empty()
            folder = tmp_path_factory.mktemp("house")
            house = stack.enter_context(House(folder, postgres.url_of(name), broker_of_choice.url, **settings))
            made.append(house)
            house.start_loops()
            house.start_workers(*workers)
            house.await_loops()
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
