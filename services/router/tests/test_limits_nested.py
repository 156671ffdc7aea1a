"""Limits of keys and models within their tenant's, on a real Redis: taken together, or not at all."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limits_demand import SLOW, Caller, admitted, key_of, limiters_on, limits
from router_harness import Desired, FakeHost, RunningRouter, until

from moorage_common.contracts.keys import Rate
from moorage_router.limits.breaker import Breaker
from moorage_router.limits.buckets import Bucket
from moorage_router.limits.calls import StoreState
from moorage_router.limits.limiter import Limiter
from moorage_router.limits.store import Ask, LimitStore


@pytest.fixture
async def limiters(redis_url: str) -> AsyncIterator[list[Limiter]]:
    """Two routers' limiters on one store."""
    async with limiters_on(redis_url, 2, patient=True) as made:
        yield made


async def test_what_a_key_is_refused_costs_its_tenant_nothing(limiters: list[Limiter]) -> None:
    limiter = limiters[0]
    tenant = limiter.add(limits("inner", SLOW, 40))
    narrow = key_of("inner", Rate(requests_per_s=SLOW, burst=3), "narrow")
    outcomes = [await admitted(limiter, tenant, narrow) for _ in range(20)]
    assert outcomes == ["ok"] * 3 + ["key_over_rate"] * 17
    outcomes = [await admitted(limiter, tenant) for _ in range(40)]
    assert outcomes.count("ok") == 37


async def test_what_a_tenant_is_refused_costs_its_key_and_its_model_nothing(limiters: list[Limiter]) -> None:
    limiter = limiters[0]
    rates = [{"model": "m", "requests_per_s": SLOW, "burst": 8}]
    tenant = limiter.add(limits("outer", SLOW, 2, model_rates=rates))
    key = key_of("outer", Rate(requests_per_s=SLOW, burst=10))
    assert [await admitted(limiter, tenant, key) for _ in range(9)] == ["ok"] * 2 + ["over_quota"] * 7
    tenant.update(limits("outer", SLOW, 1000, model_rates=rates))
    outcomes = [await admitted(limiter, tenant, key) for _ in range(9)]
    assert outcomes[:6] == ["ok"] * 6
    assert set(outcomes[6:]) == {"model_over_rate"}
    outcomes = [await admitted(limiter, tenant, key, model="another") for _ in range(4)]
    assert outcomes == ["ok"] * 2 + ["key_over_rate"] * 2


async def test_all_limits_of_a_request_are_asked_in_one_call(limiters: list[Limiter]) -> None:
    limiter = limiters[0]
    tenant = limiter.add(limits("one-call", 50, 20, model_rates=[{"model": "m", "requests_per_s": 40, "burst": 10}]))
    asked: list[list[str]] = []
    lease = limiter.state.store.lease

    async def noted(name: str, asks: list[Ask], *, together: bool = False) -> object:
        asked.append([ask.bucket.kind for ask in asks])
        return await lease(name, asks, together=together)

    limiter.state.store.lease = noted
    assert await admitted(limiter, tenant, key_of("one-call", Rate(requests_per_s=30, burst=5))) == "ok"
    assert asked == [["key", "model", "requests"]]


async def test_nested_limits_each_hold_over_two_routers_and_the_tenants_is_used_by_others(
    limiters: list[Limiter],
) -> None:
    wide = limits("both", 300, 100, model_rates=[{"model": "busy", "requests_per_s": 120, "burst": 40}])
    tenants = [limiter.add(wide) for limiter in limiters]
    key = key_of("both", Rate(requests_per_s=60, burst=20))
    pairs = list(zip(limiters, tenants, strict=True))
    narrow = [Caller(limiter, tenant, 100, key) for limiter, tenant in pairs]
    busy = [Caller(limiter, tenant, 150, None, "busy") for limiter, tenant in pairs]
    others = [Caller(limiter, tenant, 200, None, "other") for limiter, tenant in pairs]
    took = max(await asyncio.gather(*(caller.ask(3) for caller in [*narrow, *busy, *others])))
    passed = [sum(len(caller.passed) for caller in group) for group in (narrow, busy, others)]
    assert passed[0] <= 20 + 60 * took
    assert passed[1] <= 40 + 120 * took
    assert sum(passed) <= 100 + 300 * took
    assert sum(passed) >= 0.9 * 300 * 3


async def test_a_keys_changed_rate_holds_from_the_next_request(limiters: list[Limiter]) -> None:
    limiter = limiters[0]
    tenant = limiter.add(limits("changing", 1000, 1000))
    assert [await admitted(limiter, tenant, key_of("changing", Rate(requests_per_s=SLOW, burst=1))) for _ in "ab"] == [
        "ok",
        "key_over_rate",
    ]
    wider = key_of("changing", Rate(requests_per_s=SLOW, burst=5))
    assert [await admitted(limiter, tenant, wider) for _ in range(4)] == ["ok"] * 4
    assert await admitted(limiter, tenant, key_of("changing")) == "ok"


async def test_a_key_that_nobody_uses_is_forgotten_with_nothing_lost(limiters: list[Limiter]) -> None:
    limiter = limiters[0]
    tenant = limiter.add(limits("forgetful", 1000, 1000))
    key = key_of("forgetful", Rate(requests_per_s=SLOW, burst=2))
    assert await admitted(limiter, tenant, key) == "ok"
    await until(lambda: tenant.keys["k"].idle)
    tenant.sweep(time.monotonic())
    assert list(tenant.keys) == ["k"]
    in_the_end = time.monotonic() + 100 / SLOW
    tenant.sweep(in_the_end)
    tenant.sweep(in_the_end + 61)
    assert not tenant.keys
    assert [await admitted(limiter, tenant, key) for _ in range(2)] == ["ok", "key_over_rate"]


@pytest.mark.parametrize(
    ("policy", "code"), [("local", "key_over_rate"), ("open", "ok"), ("closed", "limit_store_away")]
)
async def test_without_redis_a_key_is_held_to_its_share_as_the_tenants_policy_says(policy: str, code: str) -> None:
    limiter = Limiter(StoreState(LimitStore("redis://127.0.0.1:1/0"), Breaker(opened=True)), "r", lambda _tenant: 0)
    tenant = limiter.add(limits("t", 1000, 1000, on_store_loss=policy))
    key = key_of("t", Rate(requests_per_s=SLOW, burst=1))
    outcomes = [await admitted(limiter, tenant, key) for _ in range(5)]
    assert set(outcomes[1:]) == {code}
    if policy == "local":
        assert outcomes[0] == "ok"
        assert await admitted(limiter, tenant) == "ok"
    await limiter.state.store.close()


_BURSTS = st.lists(st.integers(1, 6), min_size=1, max_size=3)
_STEPS = st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 4), min_size=3, max_size=3)), max_size=12)


@given(bursts=_BURSTS, steps=_STEPS)
@settings(max_examples=60, deadline=None)
def test_what_is_asked_together_is_granted_together_and_never_more_than_is_left(
    redis_url: str, bursts: list[int], steps: list[tuple[bool, list[int]]]
) -> None:
    asyncio.run(_grants(LimitStore(redis_url), str(uuid.uuid4()), bursts, steps))


async def _grants(store: LimitStore, tenant: str, bursts: list[int], steps: list[tuple[bool, list[int]]]) -> None:
    buckets = [Bucket(tenant, "key", str(n), SLOW / 100, burst) for n, burst in enumerate(bursts)]
    left = list(bursts)
    try:
        for together, wants in steps:
            asks = [Ask(bucket, want) for bucket, want in zip(buckets, wants, strict=False)]
            short = [ask.want > 0 and not has for ask, has in zip(asks, left, strict=True)]
            none = together and any(short)
            expected = [0 if none else min(ask.want, has) for ask, has in zip(asks, left, strict=True)]
            granted = await store.lease(tenant, asks, together=together)
            assert [answer.tokens for answer in granted] == expected
            assert all(answer.retry_after_s > 0 for answer, is_short in zip(granted, short, strict=True) if is_short)
            left = [has - gone for has, gone in zip(left, expected, strict=True)]
            assert [answer.net for answer in granted] == [b - has for b, has in zip(bursts, left, strict=True)]
    finally:
        await store.close()


async def test_answers_tell_of_the_tightest_limit_and_refusals_of_the_one_that_was_hit(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    wide = await desired.key()
    narrow = await desired.key(rate=Rate(requests_per_s=0.01, burst=3))
    await desired.limits(
        requests_per_s=SLOW, burst=1000, model_rates=[{"model": "m", "requests_per_s": 100, "burst": 50}]
    )
    await desired.route({1: 10_000})
    await desired.host(host, 1)
    await router.knows(wide, 1)
    await router.knows(narrow, 1)
    await until(lambda: "demo" in router.app.deps.limits.tenants)
    answer = await router.infer(wide)
    assert answer.headers["ratelimit-policy"] == '"model";q=50;w=1'
    assert answer.headers["ratelimit"] in {f'"model";r={left};t=1' for left in (48, 49, 50)}
    answers = [await router.infer(narrow) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["ratelimit"] for answer in answers[:3]] == [f'"key";r={left};t=1' for left in (2, 1, 0)]
    refused = answers[-1].headers
    assert refused["moorage-error"] == "key_over_rate"
    assert refused["ratelimit-policy"] == '"key";q=3;w=300'
    assert refused["ratelimit"] == f'"key";r=0;t={refused["retry-after"]}'
    assert 95 <= int(refused["retry-after"]) <= 100
