"""Token buckets in Redis, by the clock of Redis: one for all processes, gone by itself when it is full again."""

from dataclasses import dataclass
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from contracts.errors import Unavailable
from shared_state.broker.app import is_redis

ANSWER_SECONDS = 0.25
"""Requests wait for this: rather count alone than wait longer."""
_PREFIX = "orchestrator:rate:"
_CONNECTIONS = 64
_TAKE = """
local rate, burst, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local kept = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(kept[1]) or burst, tonumber(kept[2]) or now
tokens = math.min(burst, tokens + math.max(0, now - at) * rate)
local taken = math.min(wanted, math.floor(tokens))
tokens = tokens - taken
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil(1000 * burst / rate) + 1000)
return {taken, tostring(math.max(0, (1 - tokens) / rate))}
"""


@dataclass(frozen=True)
class Taken:
    """How many tokens were to be had; with none, `wait_seconds` says when there will be one."""

    tokens: int
    wait_seconds: float


class RedisBuckets:
    """Safe to use from several threads."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(
            url,
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
            max_connections=_CONNECTIONS,
            retry=Retry(NoBackoff(), 0),
        )
        self._take: Any = self._client.register_script(_TAKE)

    def take(self, key: str, *, wanted: int, rate: float, burst: int) -> Taken:
        """Up to `wanted` tokens. Raises `Unavailable` where Redis does not answer at once."""
        try:
            taken, wait = self._take(keys=[_PREFIX + key], args=[rate, burst, wanted])
        except redis.RedisError as error:
            raise Unavailable(f"Redis does not count requests ({type(error).__name__})") from error
        return Taken(int(taken), float(wait))

    def close(self) -> None:
        self._client.close()


def open_buckets(url: str) -> RedisBuckets | None:
    """None where the broker is no Redis."""
    return RedisBuckets(url) if is_redis(url) else None
