"""Rate limits on a real Redis: bounds, full use, and what a tenant's policy says without it."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from limits_demand import SLOW, Caller, admitted, limiters_on, limits
from router_harness import Desired, FakeHost, RunningRouter, until

from moorage_router.limits.breaker import Breaker
from moorage_router.limits.calls import StoreState
from moorage_router.limits.limiter import Limiter
from moorage_router.limits.store import LimitStore


@pytest.fixture
async def limiters(redis_url: str) -> AsyncIterator[list[Limiter]]:
    """Two routers' limiters on one store."""
    async with limiters_on(redis_url, 2, patient=True) as made:
        yield made


@pytest.mark.parametrize(("rate", "burst"), [(400.0, 400), (60.0, 20)])
async def test_two_routers_together_admit_at_most_burst_plus_rate_and_leave_little_unused(
    limiters: list[Limiter], rate: float, burst: int
) -> None:
    both = limits(f"t{rate:.0f}", rate, burst)
    callers = [Caller(lim, lim.add(both), part) for lim, part in zip(limiters, (rate * 2, rate), strict=True)]
    took = max(await asyncio.gather(*(caller.ask(4) for caller in callers)))
    passed = sorted(at for caller in callers for at in caller.passed)
    assert len(passed) <= burst + rate * took
    for first, at in enumerate(passed):
        inside = sum(1 for other in passed[first:] if other - at <= 0.5)
        assert inside <= burst + rate * (0.5 + 0.5)
    assert len(passed) >= 0.9 * rate * 4


async def test_unused_tokens_are_given_back(limiters: list[Limiter]) -> None:
    both = limits("returning", SLOW, 100)
    one, two = limiters
    mine, theirs = one.add(both), two.add(both)
    mine.gate._rate = 200.0
    mine.gate._last_fold = time.monotonic() + 60
    assert await admitted(one, mine) == "ok"
    assert mine.gate.tokens > 5
    await until(lambda: mine.gate.idle, "the return")
    outcomes = [await admitted(two, theirs) for _ in range(99)]
    assert outcomes.count("ok") == 99


async def test_an_abuser_is_denied_locally(limiters: list[Limiter]) -> None:
    limiter = limiters[0]
    tenant = limiter.add(limits("abuser", 1, 1))
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


@pytest.mark.parametrize(("policy", "code"), [("local", "ok"), ("open", "ok"), ("closed", "limit_store_away")])
async def test_without_redis_a_tenants_policy_decides(policy: str, code: str) -> None:
    limiter = Limiter(StoreState(LimitStore("redis://127.0.0.1:1/0"), Breaker(opened=True)), "r", lambda _tenant: 0)
    tenant = limiter.add(limits("t", 1000, 2000, on_store_loss=policy))
    assert await admitted(limiter, tenant) == code
    await limiter.state.store.close()


async def test_over_quota_is_429_until_the_limit_is_raised_and_concurrency_is_bounded(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    release = asyncio.Event()

    async def slow(_host: FakeHost, _seen: object, _writer: object) -> bool:
        await release.wait()
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
    asking = [asyncio.create_task(router.infer(key)) for _ in range(8)]
    await until(lambda: sum(task.done() for task in asking) == 6, "the refusals")
    release.set()
    answers = await asyncio.gather(*asking)
    codes = [answer.headers.get("moorage-error", "ok") for answer in answers]
    assert codes.count("ok") == 2
    assert codes.count("too_many_concurrent") == 6


async def test_what_routers_take_for_their_shares_of_a_limit_adds_up_to_it(redis_url: str) -> None:
    async with limiters_on(redis_url, 4, patient=True) as limiters:
        whole = limits("shared", 800, 800)
        callers = [Caller(lim, lim.add(whole), 600 / (number + 1)) for number, lim in enumerate(limiters)]
        await asyncio.gather(*(caller.ask(4) for caller in callers))
        shares = [caller.tenant.gate.share for caller in callers]
        assert 0.9 <= sum(shares) <= 1.1
        assert shares[0] > shares[3]
