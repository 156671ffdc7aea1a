"""The limit store: two scripts on Redis, on Redis' own clock."""

import asyncio
from dataclasses import dataclass
from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

ROUTERS_KEY = "moorage:routers"
STORE_ERRORS: tuple[type[Exception], ...] = (RedisError, OSError, asyncio.TimeoutError)
_SOCKET_TIMEOUT_S = 1.0
"""Ends calls that nobody waits for any more; those who wait give up after milliseconds."""


@dataclass(frozen=True, slots=True)
class Granted:
    """Answer to a lease.

    Attributes:
        net: all tokens ever granted from the bucket less those given back.
        in_use: tokens of the burst that are not there right now.
    """

    tokens: int
    retry_after_s: float
    net: int
    in_use: float


def limit_key(tenant: str) -> str:
    return f"moorage:limit:{tenant}:requests"


class LimitStore:
    """Raises one of STORE_ERRORS when Redis does not answer well within a second."""

    def __init__(self, url: str) -> None:
        self._redis: Redis = Redis.from_url(
            url, socket_timeout=_SOCKET_TIMEOUT_S, socket_connect_timeout=_SOCKET_TIMEOUT_S, max_connections=64
        )
        here = resources.files("moorage_router.limits")
        self._lease: Any = self._redis.register_script(here.joinpath("lease.lua").read_text())
        self._heartbeat: Any = self._redis.register_script(here.joinpath("heartbeat.lua").read_text())

    async def lease(
        self, tenant: str, *, rate: float, burst: int, want: int, give_back: int, in_use: float = 0.0
    ) -> Granted:
        """Take up to `want` tokens of the tenant's bucket and give `give_back` unused ones back.

        Args:
            in_use: at least so many tokens of the burst are gone, whatever the store remembers.
        """
        tokens, retry_after_us, net, level = await self._lease(
            keys=[limit_key(tenant)], args=[rate, burst, want, give_back, in_use]
        )
        return Granted(int(tokens), int(retry_after_us) / 1e6, int(net), float(level))

    async def heartbeat(self, router: str) -> int:
        """Note that this router lives; how many do."""
        return int(await self._heartbeat(keys=[ROUTERS_KEY], args=[router]))

    async def close(self) -> None:
        await self._redis.aclose()
