"""The limit store: two scripts on Redis, on Redis' own clock."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from moorage_router.limits.buckets import Bucket

ROUTERS_KEY = "moorage:routers"
STORE_ERRORS: tuple[type[Exception], ...] = (RedisError, OSError, asyncio.TimeoutError)
_SOCKET_TIMEOUT_S = 1.0
"""Ends calls that nobody waits for any more; those who wait give up after milliseconds."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Of one bucket: tokens wanted, and unused ones given back.

    Attributes:
        in_use: at least so many tokens of the burst are gone, whatever the store remembers.
    """

    bucket: Bucket
    want: int
    give_back: int = 0
    in_use: float = 0.0


@dataclass(frozen=True, slots=True)
class Granted:
    """Answer of one bucket.

    Attributes:
        retry_after_s: when it has another token; 0 unless it had too few.
        net: all tokens ever granted from the bucket less those given back.
        in_use: tokens of the burst that are not there right now.
    """

    tokens: int
    retry_after_s: float
    net: int
    in_use: float


def limit_key(tenant: str, bucket: Bucket) -> str:
    """Where a bucket lies. All of a tenant's lie in one slot of a Redis Cluster, since they are asked together."""
    return f"moorage:limit:{{{tenant}}}:{bucket.kind}:{bucket.name}"


class LimitStore:
    """Raises one of STORE_ERRORS when Redis does not answer well within a second."""

    def __init__(self, url: str) -> None:
        self._redis: Redis = Redis.from_url(
            url, socket_timeout=_SOCKET_TIMEOUT_S, socket_connect_timeout=_SOCKET_TIMEOUT_S, max_connections=64
        )
        here = resources.files("moorage_router.limits")
        self._lease: Any = self._redis.register_script(here.joinpath("lease.lua").read_text())
        self._heartbeat: Any = self._redis.register_script(here.joinpath("heartbeat.lua").read_text())

    async def lease(self, tenant: str, asks: Sequence[Ask], *, together: bool = False) -> list[Granted]:
        """Take and give back tokens of buckets of one tenant at one moment.

        Args:
            together: grant nothing unless there is one of each bucket that is wanted from.
        """
        numbers: list[float] = [int(together)]
        for ask in asks:
            numbers += ask.bucket.rate, ask.bucket.burst, ask.want, ask.give_back, ask.in_use
        said = await self._lease(keys=[limit_key(tenant, ask.bucket) for ask in asks], args=numbers)
        fours = (said[at : at + 4] for at in range(0, len(said), 4))
        return [Granted(int(tokens), int(again) / 1e6, int(net), float(level)) for tokens, again, net, level in fours]

    async def heartbeat(self, router: str) -> int:
        """Note that this router lives; how many do."""
        return int(await self._heartbeat(keys=[ROUTERS_KEY], args=[router]))

    async def close(self) -> None:
        await self._redis.aclose()
