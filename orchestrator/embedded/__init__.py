"""Postgres and Redis of our own, from the wheels of the extra `embedded`: for `dev`, the demo and the tests."""

from orchestrator.embedded.postgres import EmbeddedPostgres
from orchestrator.embedded.redis import EmbeddedRedis

__all__ = ["EmbeddedPostgres", "EmbeddedRedis"]
