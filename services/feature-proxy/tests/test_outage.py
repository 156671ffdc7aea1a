"""Redis away or hung: quick, clear refusals, and back by itself."""

import asyncio
import os
import signal
import time
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage_common.testing.servers import Server
from moorage_feature_proxy.feast_protos import Registry, ValueType
from moorage_feature_proxy.online_store import COOL_DOWN_S, FAILURES_TO_OPEN, Breaker


def registry() -> bytes:
    found = Registry()
    entity = found.entities.add().spec
    entity.name, entity.project, entity.join_key, entity.value_type = "shop", "acme", "shop_id", ValueType.INT64
    view = found.feature_views.add().spec
    view.name, view.project = "v", "acme"
    view.entities.append("shop")
    service = found.feature_services.add().spec
    service.name, service.project = "svc", "acme"
    projection = service.features.add()
    projection.feature_view_name = "v"
    column = projection.feature_columns.add()
    column.name, column.value_type = "a", ValueType.DOUBLE
    content: bytes = found.SerializeToString()
    return content


async def timed(proxy: Any) -> tuple[httpx.Response, float]:
    started = time.monotonic()
    answer = await proxy.online("acme", "svc", shop_id=[1, 2])
    return answer, time.monotonic() - started


async def until_answered(proxy: Any) -> None:
    deadline = time.monotonic() + 10
    while (await timed(proxy))[0].status_code != 200:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("how", ["killed", "hung"])
async def test_without_redis_lookups_are_503_with_retry_after_at_once_and_come_back(
    how: str, start_proxy: Any, own_redis: Server
) -> None:
    async with start_proxy(own_redis.url, redis_timeout_ms=100) as proxy:
        await proxy.put_definitions("acme", registry())
        await until_answered(proxy)
        pid = own_redis.pid
        if how == "killed":
            own_redis.kill()
        else:
            os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(20):
                answer, took_s = await timed(proxy)
                assert answer.status_code == 503
                assert answer.json()["code"] == "feature_store_unavailable"
                assert int(answer.headers["retry-after"]) >= 1
                assert took_s < 1.0
            metrics = (await proxy.operations.get("/metrics")).text
            assert 'moorage_features_store_failures_total{reason="breaker"}' in metrics
            assert (await proxy.http.get("/v1/features/services")).status_code == 401
        finally:
            if how == "killed":
                own_redis.start()
            else:
                os.kill(pid, signal.SIGCONT)
        await until_answered(proxy)


async def test_many_lookups_at_once_share_the_connections(start_proxy: Any, own_redis: Server) -> None:
    async with start_proxy(own_redis.url, redis_timeout_ms=5000, redis_connections=2) as proxy:
        await proxy.put_definitions("acme", registry())
        answers = await asyncio.gather(*(proxy.online("acme", "svc", shop_id=[i]) for i in range(64)))
        assert {answer.status_code for answer in answers} == {200}


async def test_a_key_that_is_no_hash_fails_its_own_lookup_and_opens_no_breaker(
    start_proxy: Any, own_redis: Server
) -> None:
    import redis

    from moorage_feature_proxy import values

    async with start_proxy(own_redis.url, redis_timeout_ms=2000) as proxy:
        await proxy.put_definitions("acme", registry())
        key = values.key_prefix(["shop_id"]) + values.encode_entities("shop_id", values.ValueType.INT64, [7])[0]
        with redis.Redis.from_url(own_redis.url) as client:
            client.set(key + b"acme", "text")
        for _ in range(FAILURES_TO_OPEN + 1):
            assert (await proxy.online("acme", "svc", shop_id=[7])).status_code == 503
            assert (await proxy.online("acme", "svc", shop_id=[8])).status_code == 200


@given(st.lists(st.booleans(), max_size=30))
def test_the_breaker_opens_after_failures_in_a_row_alone_and_lets_one_probe_through(outcomes: list[bool]) -> None:
    breaker, now, in_a_row = Breaker(), 0.0, 0
    for succeeded in outcomes:
        is_open = in_a_row >= FAILURES_TO_OPEN
        assert breaker.allows(now) is not is_open
        if is_open:
            now += COOL_DOWN_S
            assert breaker.allows(now)
            assert not breaker.allows(now)
        if succeeded:
            breaker.succeeded()
            in_a_row = 0
        else:
            breaker.failed(now)
            in_a_row += 1
