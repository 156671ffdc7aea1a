"""Rate limits while Redis hangs, is stopped or forgets everything, and when it is back."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
from limits_demand import Caller, key_of, limiters_on, limits, trips
from redis.asyncio import Redis

from moorage_common.contracts.keys import Rate
from moorage_common.testing.servers import Server
from moorage_router.limits.limiter import Limiter

RATE, BURST = 300.0, 300


@pytest.fixture
def frail_redis(own_redis: Server) -> Iterator[Server]:
    yield own_redis
    if own_redis.pid:
        os.kill(own_redis.pid, signal.SIGCONT)


@contextlib.asynccontextmanager
async def callers_on(url: str, demand: float, *, key: Rate | None = None) -> AsyncIterator[list[Caller]]:
    """Two routers' callers, used to their share."""
    async with limiters_on(url, 2) as limiters:
        wide = limits("t", RATE if key is None else 10 * RATE, BURST if key is None else 10 * BURST)
        principal = None if key is None else key_of("t", key)
        yield [Caller(limiter, limiter.add(wide), demand / 2, principal) for limiter in limiters]


async def ask(callers: list[Caller], seconds: float) -> float:
    """Ask all at once; how long that took."""
    return max(await asyncio.gather(*(caller.ask(seconds) for caller in callers)))


def passed(callers: list[Caller]) -> int:
    return sum(len(caller.passed) for caller in callers)


def opened(callers: list[Caller]) -> bool:
    return any(caller.limiter.state.breaker.opened for caller in callers)


@contextlib.contextmanager
def away(redis: Server, fault: str) -> Iterator[None]:
    """Without Redis: it hangs, or it is gone and comes back having forgotten everything."""
    if fault == "hangs":
        os.kill(redis.pid, signal.SIGSTOP)
    else:
        redis.kill()
    yield
    if fault == "hangs":
        os.kill(redis.pid, signal.SIGCONT)
    else:
        redis.start()


@pytest.mark.parametrize("fault", ["hangs", "is gone"])
@pytest.mark.parametrize("key", [None, Rate(requests_per_s=RATE, burst=BURST)], ids=["tenant", "key"])
async def test_without_redis_nobody_waits_long_and_the_limit_holds_in_it_and_afterwards(
    frail_redis: Server, fault: str, key: Rate | None
) -> None:
    async with callers_on(frail_redis.url, 2 * RATE, key=key) as callers:
        took = await ask(callers, 2.5)
        before = passed(callers)
        for caller in callers:
            caller.slowest = 0.0
        with away(frail_redis, fault):
            took += (outage := await ask(callers, 2.5))
            assert all(caller.limiter.state.breaker.opened for caller in callers)
            inside = passed(callers) - before
            assert max(caller.slowest for caller in callers) < 0.25
            assert 0.7 * RATE * outage <= inside <= RATE * (outage + 0.5 + 0.25)
        while opened(callers):
            took += await ask(callers, 0.1)
        took += await ask(callers, 1.5)
        assert passed(callers) <= BURST + RATE * (took + 0.5 + 0.25 * (trips(*limiters_of(callers)) - 2))


@pytest.mark.parametrize("fault", ["hangs", "is gone"])
async def test_a_tenant_inside_its_limit_loses_no_request_to_an_outage(frail_redis: Server, fault: str) -> None:
    async with callers_on(frail_redis.url, 0.5 * RATE) as callers:
        took = await ask(callers, 1)
        with away(frail_redis, fault):
            took += await ask(callers, 2)
        while opened(callers):
            took += await ask(callers, 0.1)
        took += await ask(callers, 1)
        assert passed(callers) >= 0.5 * RATE * took - 0.01 * RATE * took


async def test_a_redis_that_forgets_costs_one_burst_and_no_request(frail_redis: Server) -> None:
    async with callers_on(frail_redis.url, 2 * RATE) as callers:
        took = await ask(callers, 1.5)
        redis: Redis = Redis.from_url(frail_redis.url)
        await redis.flushall()
        await redis.aclose()
        took += await ask(callers, 1.5)
        slack = 0.25 * RATE * trips(*limiters_of(callers))
        assert passed(callers) <= 2 * BURST + RATE * took + slack
        assert passed(callers) >= BURST + 0.9 * RATE * took


def limiters_of(callers: list[Caller]) -> list[Limiter]:
    return [caller.limiter for caller in callers]


async def test_a_redis_that_is_late_time_and_again_lets_nobody_over_the_limit(frail_redis: Server) -> None:
    async with callers_on(frail_redis.url, 2 * RATE) as callers:
        took = await ask(callers, 1.5)
        for _ in range(6):
            with away(frail_redis, "hangs"):
                took += await ask(callers, 0.2)
            took += await ask(callers, 0.3)
        took += await ask(callers, 0.5)
        assert trips(*limiters_of(callers)) >= 6
        assert 0.85 * RATE * took <= passed(callers) <= BURST + RATE * took
