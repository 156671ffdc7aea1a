"""Rate limits on a real Redis: bounds, full use, and what happens without it."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from router_harness import Desired, FakeHost, RunningRouter, until

from moorage_common.contracts.keys import KeyRecord, Rate, TenantLimits
from moorage_common.errors import MoorageError
from moorage_common.testing.servers import Server
from moorage_router.limits.breaker import Breaker
from moorage_router.limits.calls import StoreState
from moorage_router.limits.limiter import Limiter, Tenant
from moorage_router.limits.store import LimitStore


@pytest.fixture
async def limiters(redis_url: str) -> AsyncIterator[list[Limiter]]:
    """Two routers' limiters on one store."""
    made = [Limiter(StoreState(LimitStore(redis_url)), f"r{n}", lambda _tenant: 0) for n in range(2)]
    for limiter in made:
        limiter.state.routers = 2
    tasks = [asyncio.create_task(limiter.run()) for limiter in made]
    yield made
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for limiter in made:
        await limiter.state.store.close()


async def admitted(limiter: Limiter, tenant: Tenant, *, rate: Rate | None = None, model: str = "m") -> str:
    """`ok` or the refusal's code."""
    try:
        await limiter.admit(tenant, KeyRecord(kid="k", tenant=tenant.name, digest="", scopes=[], rate=rate), model)
    except MoorageError as error:
        return error.code
    return "ok"


async def demand(limiter: Limiter, tenant: Tenant, rate: float, seconds: float, passed: list[float]) -> None:
    """Ask `rate` times a second; note when one passed."""
    ends = time.monotonic() + seconds
    started, asked = time.monotonic(), 0
    while (now := time.monotonic()) < ends:
        while asked < (now - started) * rate:
            asked += 1
            if await admitted(limiter, tenant) == "ok":
                passed.append(time.monotonic())
        await asyncio.sleep(0.002)


@pytest.mark.parametrize(("rate", "burst"), [(400.0, 400), (60.0, 20)])
async def test_two_routers_together_admit_at_most_burst_plus_rate_and_leave_little_unused(
    limiters: list[Limiter], rate: float, burst: int
) -> None:
    limits = TenantLimits(tenant=f"t{rate:.0f}", requests_per_s=rate, burst=burst)
    tenants = [limiter.add(limits) for limiter in limiters]
    passed: list[float] = []
    started = time.monotonic()
    asking = [
        demand(lim, ten, part, 4, passed) for lim, ten, part in zip(limiters, tenants, (rate * 2, rate), strict=True)
    ]
    await asyncio.gather(*asking)
    took = time.monotonic() - started
    trips = sum(limiter.state.breaker.trips for limiter in limiters)
    slack = 0.25 * rate * trips  # a machine too busy to answer in 20 ms counts as an outage
    assert len(passed) <= burst + rate * took + slack
    passed.sort()
    for first, at in enumerate(passed):
        inside = sum(1 for other in passed[first:] if other - at <= 0.5)
        assert inside <= burst + rate * (0.5 + 0.5) + slack
    assert len(passed) >= 0.9 * rate * 4


async def test_unused_tokens_are_given_back(limiters: list[Limiter]) -> None:
    limits = TenantLimits(tenant="returning", requests_per_s=0.001, burst=100)
    one, two = limiters
    mine, theirs = one.add(limits), two.add(limits)
    mine.gate._rate = 200.0
    mine.gate._last_fold = time.monotonic() + 60
    assert await admitted(one, mine) == "ok"
    assert mine.gate.tokens > 5
    await until(lambda: mine.gate.idle, "the return")
    outcomes = [await admitted(two, theirs) for _ in range(99)]
    assert outcomes.count("ok") + two.state.breaker.trips >= 99


async def test_an_abuser_is_denied_locally(limiters: list[Limiter]) -> None:
    limiter = limiters[0]
    tenant = limiter.add(TenantLimits(tenant="abuser", requests_per_s=1, burst=1))
    calls = 0
    lease = limiter.state.store.lease

    async def counted(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        return await lease(*args, **kwargs)

    limiter.state.store.lease = counted
    ends = time.monotonic() + 0.5
    asked = 0
    while time.monotonic() < ends:
        await admitted(limiter, tenant)
        asked += 1
        if asked % 50 == 0:
            await asyncio.sleep(0)
    assert asked > 500
    assert calls <= 5


@pytest.fixture
def hung_redis(own_redis: Server) -> Iterator[Server]:
    yield own_redis
    os.kill(own_redis.pid, signal.SIGCONT)


async def test_a_hung_redis_delays_nobody_for_long_and_the_local_share_keeps_the_bound(hung_redis: Server) -> None:
    limiter = Limiter(StoreState(LimitStore(hung_redis.url)), "r", lambda _tenant: 0)
    task = asyncio.create_task(limiter.run())
    tenant = limiter.add(TenantLimits(tenant="t", requests_per_s=300, burst=300))
    passed: list[float] = []
    beginning = time.monotonic()
    await demand(limiter, tenant, 600, 2.5, passed)
    before = len(passed)
    os.kill(hung_redis.pid, signal.SIGSTOP)
    passed.clear()
    slowest, started = 0.0, time.monotonic()
    while (now := time.monotonic()) < started + 2.5:
        if await admitted(limiter, tenant) == "ok":
            passed.append(now)
        slowest = max(slowest, time.monotonic() - now)
        await asyncio.sleep(0.001)
    took = time.monotonic() - started
    assert limiter.state.breaker.opened
    assert slowest < 0.25
    assert 0.7 * 300 * took <= len(passed) <= 300 * (took + 0.5 + 0.25)
    os.kill(hung_redis.pid, signal.SIGCONT)
    while limiter.state.breaker.opened:
        await demand(limiter, tenant, 600, 0.1, passed)
    await demand(limiter, tenant, 600, 1.5, passed)
    assert before + len(passed) <= 300 + 300 * (time.monotonic() - beginning + 0.5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await limiter.state.store.close()


@pytest.mark.parametrize(("policy", "code"), [("local", "ok"), ("open", "ok"), ("closed", "limit_store_away")])
async def test_without_redis_a_tenants_policy_decides(policy: str, code: str) -> None:
    limiter = Limiter(StoreState(LimitStore("redis://127.0.0.1:1/0"), Breaker(opened=True)), "r", lambda _tenant: 0)
    tenant = limiter.add(TenantLimits.model_validate({"tenant": "t", "on_store_loss": policy}))
    assert await admitted(limiter, tenant) == code
    await limiter.state.store.close()


async def test_over_quota_is_429_until_the_limit_is_raised_and_concurrency_is_bounded(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    async def slow(_host: FakeHost, _seen: object, _writer: object) -> bool:
        await asyncio.sleep(0.3)
        return False

    key = await desired.key()
    await desired.limits(requests_per_s=0.01, burst=3)
    await desired.route({1: 10_000})
    await desired.host(host, 1)
    await router.knows(key, 1)
    await until(lambda: router.app.deps.limits.tenants["demo"].limits.burst == 3)
    answers = [await router.infer(key) for _ in range(12)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(answers) - len(refused) <= 4
    assert refused[-1].headers["moorage-error"] == "over_quota"
    assert int(refused[-1].headers["retry-after"]) >= 1
    await desired.limits(max_concurrent=2)
    await until(lambda: router.app.deps.limits.tenants["demo"].limits.max_concurrent == 2)
    host.behaviour = slow
    answers = await asyncio.gather(*(router.infer(key) for _ in range(8)))
    codes = [answer.headers.get("moorage-error", "ok") for answer in answers]
    assert codes.count("ok") == 2
    assert codes.count("too_many_concurrent") == 6
