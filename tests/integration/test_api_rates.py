"""Rate limits over HTTP and in Redis: over several processes, without Redis, and what a client makes of them."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import redis
from sqlalchemy import Engine

from contracts.errors import Unavailable
from orchestrator.client import Client
from orchestrator.embedded import EmbeddedRedis
from orchestrator.refusals import TooManyRequests
from shared_state.broker.buckets import RedisBuckets, open_buckets

from .api_server import make_keys, running_api, until


def asked(url: str, key: str) -> httpx.Response:
    return httpx.get(f"{url}/v1/workers", headers={"Authorization": f"Bearer {key}"})


def test_a_key_that_asks_too_often_is_told_when_to_come_back(engine: Engine, database_url: str, redis_url: str) -> None:
    keys = make_keys(engine)
    with running_api(engine, database_url, redis_url, rate_per_second=0.7, rate_burst=3) as url:
        assert [asked(url, keys["admin"]).status_code for _ in range(3)] == [200] * 3
        refused = asked(url, keys["admin"])
        assert refused.status_code == 429
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["code"] == "rate_limited"
        assert "rate_per_second" in refused.json()["detail"]
        assert refused.headers["retry-after"] in ("1", "2")  # up to 1.4 s, in whole seconds
        # Another key has its own, and who is refused is refused before anything is done.
        assert asked(url, keys["viewer"]).status_code == 200
        assert until(lambda: asked(url, keys["admin"]).status_code == 200)
        # Probes are not counted, and nor is who has no key.
        assert [httpx.get(f"{url}/v1/health").status_code for _ in range(5)] == [200] * 5
        assert [asked(url, "nobody").status_code for _ in range(5)] == [401] * 5


def test_the_rate_holds_over_several_processes(engine: Engine, database_url: str, redis_url: str) -> None:
    key = make_keys(engine)["admin"]
    limits = {"rate_per_second": 1, "rate_burst": 20}
    with (
        running_api(engine, database_url, redis_url, **limits) as one,
        running_api(engine, database_url, redis_url, **limits) as other,
        ThreadPoolExecutor(8) as pool,
    ):
        # FastAPI makes its routes ready at the first request, and is not made for two of it doing so in one process.
        assert [asked(url, "nobody").status_code for url in (one, other)] == [401, 401]
        began = time.monotonic()
        statuses = list(pool.map(lambda n: asked((one, other)[n % 2], key).status_code, range(60)))
        took = time.monotonic() - began
    assert set(statuses) == {200, 429}
    assert 20 <= statuses.count(200) <= 21 + took


def test_without_redis_each_process_counts_for_itself_never_open(
    engine: Engine, database_url: str, tmp_path: Path
) -> None:
    key = make_keys(engine)["admin"]
    with EmbeddedRedis(tmp_path / "redis") as server:
        limits = {"rate_per_second": 4, "rate_burst": 20}
        with running_api(engine, database_url, server.url, **limits) as url:
            assert asked(url, key).status_code == 200
            server.stop()
            began = time.monotonic()
            statuses = [asked(url, key).status_code for _ in range(20)]
            assert statuses[:4] == [200] * 4
            assert statuses.count(200) <= 5 + 1 + (time.monotonic() - began)  # a quarter of the burst, and of the rate
            server.start()
            assert until(lambda: asked(url, key).status_code == 200)


def test_a_bucket_in_redis_fills_by_the_clock_of_redis_and_goes_by_itself(redis_url: str) -> None:
    buckets = RedisBuckets(redis_url)
    assert buckets.take("k", wanted=3, rate=50, burst=5).tokens == 3
    assert buckets.take("k", wanted=5, rate=50, burst=5).tokens >= 2
    empty = buckets.take("k", wanted=5, rate=50, burst=5)
    assert empty.tokens == 0 or empty.wait_seconds <= 0.02
    with redis.Redis.from_url(redis_url) as client:
        (name,) = client.keys("orchestrator:rate:*")
        assert 0 < client.pttl(name) <= 1100
        client.flushall()
        client.script_flush()
    assert buckets.take("k", wanted=9, rate=50, burst=5).tokens == 5
    buckets.close()
    away = RedisBuckets("redis://127.0.0.1:1/0")
    with pytest.raises(Unavailable):
        away.take("k", wanted=1, rate=1, burst=1)
    away.close()
    assert open_buckets("amqp://h//") is None


def test_the_client_waits_as_it_is_told(engine: Engine, database_url: str, redis_url: str) -> None:
    key = make_keys(engine)["admin"]
    with running_api(engine, database_url, redis_url, rate_per_second=2, rate_burst=1) as url:
        with Client(url, key) as client:
            began = time.monotonic()
            assert [client.workers() for _ in range(3)] == [[], [], []]
            assert time.monotonic() - began >= 0.9
        with Client(url, key, timeout_seconds=0.5) as hasty, pytest.raises(TooManyRequests):
            [hasty.workers() for _ in range(3)]
