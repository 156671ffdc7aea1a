"""Requests a month on a router, before a ledger of the test that answers on the real bus."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator

from nats.aio.msg import Msg
from router_harness import Desired, FakeHost, RunningRouter, Seen, serving, until

from moorage_common import api_keys
from moorage_common.contracts.names import QUOTA_SUBJECT
from moorage_common.contracts.quota import QuotaAsk, QuotaGrant, month_bounds, month_of
from moorage_common.testing.servers import Server
from moorage_router.limits.month import LEAST_BLOCK
from moorage_router.settings import RouterSettings


class Ledger:
    """Grants what is left of `limit`; counts as used all that routers said they let pass."""

    def __init__(self, limit: int, life_s: float = 60.0) -> None:
        self.limit = limit
        self.life_s = life_s
        self.asks: list[QuotaAsk] = []
        self.elsewhere = 0

    async def answer(self, message: Msg) -> None:
        ask = QuotaAsk.model_validate_json(message.data)
        self.asks.append(ask)
        room = self.limit - ask.spent - self.elsewhere
        grant = QuotaGrant(
            granted=max(0, min(ask.want, room)), life_s=self.life_s, limit=self.limit, used=0, room=room,
            held_by_others=self.elsewhere,
        )  # fmt: skip
        await message.respond(grant.model_dump_json().encode())

    @contextlib.asynccontextmanager
    async def listening(self, desired: Desired) -> AsyncIterator["Ledger"]:
        subscription = await desired.bus.client.subscribe(QUOTA_SUBJECT, cb=self.answer)
        await desired.bus.client.flush()
        yield self
        await subscription.unsubscribe()


async def caller_of(router: RunningRouter, desired: Desired, host: FakeHost, **limits: object) -> api_keys.ApiKey:
    """A key that the router knows, of a tenant with these limits."""
    key = await desired.key()
    await desired.limits(**limits)
    await desired.route({1: 10_000})
    await desired.host(host, 1)
    await router.knows(key, 1)
    deps = router.app.deps
    assert deps is not None
    await until(lambda: "demo" in deps.months._months, "the tenant's month")
    return key


async def statuses(router: RunningRouter, key: api_keys.ApiKey, count: int, callers: int = 4) -> list[int]:
    return [status for status, _body in await router.burst(key, count, callers)]


async def test_a_month_is_spent_to_its_last_request_and_then_refused_until_it_ends(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    async with Ledger(100).listening(desired):
        key = await caller_of(router, desired, host, requests_per_month=100)
        found = await statuses(router, key, 160)
        assert (found.count(200), found.count(429)) == (100, 60)
        refused = await router.infer(key)
    assert (refused.status_code, refused.headers["moorage-error"]) == (429, "month_spent")
    left_s = month_bounds(month_of(time.time()))[1] - time.time()
    assert abs(int(refused.headers["retry-after"]) - left_s) < 30


async def test_a_request_that_fails_does_not_count(router: RunningRouter, desired: Desired, host: FakeHost) -> None:
    async def fail(_host: FakeHost, _seen: Seen, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 15\r\n\r\n" + b'{"error":"bad"}')
        return True

    async with Ledger(20).listening(desired):
        key = await caller_of(router, desired, host, requests_per_month=20)
        host.behaviour = fail
        assert set(await statuses(router, key, 60, 1)) == {400}
        missing = [(await router.infer(key, "/v2/models/m/versions/9/infer")).status_code for _ in range(30)]
        assert set(missing) == {404}
        host.behaviour = None
        found = await statuses(router, key, 40, 1)
    assert (found.count(200), found.count(429)) == (20, 20)


async def test_a_raised_limit_is_served_at_once(router: RunningRouter, desired: Desired, host: FakeHost) -> None:
    async with Ledger(10).listening(desired) as ledger:
        key = await caller_of(router, desired, host, requests_per_month=10)
        found = await statuses(router, key, 20, 1)
        assert (found.count(200), found.count(429)) == (10, 10)
        ledger.limit = 50
        await desired.limits(requests_per_month=50)
        async with asyncio.timeout(2):
            while (await router.infer(key)).status_code != 200:  # noqa: ASYNC110 - polls the router
                await asyncio.sleep(0.01)


async def test_blocks_are_fetched_before_they_are_used_up_and_grow_with_the_traffic(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    async with Ledger(1_000_000).listening(desired) as ledger:
        key = await caller_of(router, desired, host, requests_per_month=1_000_000)
        assert set(await statuses(router, key, 2000)) == {200}
        first, *later = ledger.asks
        assert first.want >= LEAST_BLOCK
        assert len(later) < 100
        assert max(ask.want for ask in later) > 10 * LEAST_BLOCK


async def test_without_the_ledger_a_tenant_goes_on_at_the_pace_of_the_months_rest_and_it_counts(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    rest_s = month_bounds(month_of(time.time()))[1] - time.time()
    limit = int(rest_s * 20)  # about 20 a second, so that the pace can be seen
    key = await caller_of(router, desired, host, requests_per_month=limit)
    ledger = Ledger(limit)
    async with ledger.listening(desired):
        assert set(await statuses(router, key, 12, 1)) == {200}
    found = await statuses(router, key, 4000)
    passed = found.count(200)
    assert 0 < passed < 3000
    assert found.count(429) == 4000 - passed
    async with ledger.listening(desired):
        await until(lambda: ledger.asks[-1].spent >= 12 + passed, "the count of what passed")


async def test_a_closed_tenant_spends_what_it_holds_and_is_then_refused(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    ledger = Ledger(1000)
    async with ledger.listening(desired):
        key = await caller_of(router, desired, host, requests_per_month=1000, on_store_loss="closed")
        assert (await router.infer(key)).status_code == 200
    found = await statuses(router, key, 30, 1)
    granted = ledger.asks[-1].spent + ledger.asks[-1].want
    assert found.count(200) == granted - 1
    assert found.count(503) == 30 - (granted - 1)
    refused = await router.infer(key)
    assert (refused.status_code, refused.headers["moorage-error"]) == (503, "month_unknown")
    assert refused.headers["retry-after"] == "1"


async def test_an_open_tenant_is_never_refused_for_want_of_the_ledger(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    key = await caller_of(router, desired, host, requests_per_month=5, on_store_loss="open")
    assert set(await statuses(router, key, 50, 1)) == {200}


async def test_a_block_is_not_spent_beyond_its_life(router: RunningRouter, desired: Desired, host: FakeHost) -> None:
    async with Ledger(1000, life_s=0.05).listening(desired) as ledger:
        key = await caller_of(router, desired, host, requests_per_month=1000, on_store_loss="closed")
        assert (await router.infer(key)).status_code == 200
        asked = len(ledger.asks)
        deps = router.app.deps
        assert deps is not None
        month = deps.months._months["demo"]
        await until(lambda: time.monotonic() > month.ends)
        assert (await router.infer(key)).status_code == 200
        assert len(ledger.asks) > asked


async def test_a_ledger_that_hangs_delays_one_round_of_requests_and_no_more(
    settings: RouterSettings, desired: Desired, host: FakeHost, own_nats: Server
) -> None:
    async with serving(settings) as router:
        async with Ledger(10**9).listening(desired):
            key = await caller_of(router, desired, host, requests_per_month=10**9)
            assert set(await statuses(router, key, 8, 1)) == {200}
        os.kill(own_nats.pid, signal.SIGSTOP)
        try:
            took = []
            for _ in range(300):
                began = time.monotonic()
                assert (await router.infer(key)).status_code == 200
                took.append(time.monotonic() - began)
        finally:
            os.kill(own_nats.pid, signal.SIGCONT)
    assert sum(one > 0.2 for one in took) <= 1


async def test_a_router_that_ends_gives_back_what_it_holds(
    settings: RouterSettings, desired: Desired, host: FakeHost
) -> None:
    async with Ledger(1000).listening(desired) as ledger:
        async with serving(settings) as router:
            key = await caller_of(router, desired, host, requests_per_month=1000)
            assert set(await statuses(router, key, 5, 1)) == {200}
        assert (ledger.asks[-1].want, ledger.asks[-1].spent) == (0, 5)


async def test_a_tenant_without_a_month_is_not_asked_about(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    async with Ledger(5).listening(desired) as ledger:
        key = await desired.key()
        await desired.limits()
        await desired.route({1: 10_000})
        await desired.host(host, 1)
        await router.knows(key, 1)
        assert set(await statuses(router, key, 30, 1)) == {200}
        assert not ledger.asks
