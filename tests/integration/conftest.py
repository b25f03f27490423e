"""The API as tests of it see it."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from .api_server import LiveApi, apply_team, make_keys, running_api


@pytest.fixture
def api(engine: Engine, database_url: str, redis_url: str) -> Iterator[LiveApi]:
    """A running API, a key for every role, and the team `letters` in both tenants."""
    keys = make_keys(engine)
    apply_team(engine)
    apply_team(engine, tenant="elsewhere")
    with running_api(engine, database_url, redis_url) as url:
        yield LiveApi(url, engine, keys)
