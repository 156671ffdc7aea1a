"""Tenants whose hosts share a node: a flood of one neither keeps the others waiting nor takes their turn."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from router_harness import SIGNATURE, Desired, FakeHost, RunningRouter, Seen, serving, until

from moorage_common.api_keys import ApiKey
from moorage_router.fairness.places import INITIAL, QUEUED_A_TENANT, Place
from moorage_router.settings import RouterSettings

UNBATCHED = SIGNATURE.model_copy(update={"batchable": False})
Answers = list[asyncio.Task[httpx.Response]]


class Held:
    """Hosts that answer when the test says so, one request a turn, and the order in which requests reached them."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.turns = asyncio.Semaphore(0)

    async def __call__(self, host: FakeHost, _seen: Seen, _writer: asyncio.StreamWriter) -> bool:
        self.order.append(host.tenant)
        await self.turns.acquire()
        return False

    def release(self, count: int = 100_000) -> None:
        for _ in range(count):
            self.turns.release()


@asynccontextmanager
async def hosts(held: Held, *tenants: str) -> AsyncIterator[dict[str, FakeHost]]:
    """A host a tenant, all on one node."""
    made = {t: FakeHost(f"host-{t}", tenant=t, node="node-1", behaviour=held) for t in tenants}
    for host in made.values():
        await host.start()
    try:
        yield made
    finally:
        for host in made.values():
            await host.kill()


async def served(
    router: RunningRouter, desired: Desired, host: FakeHost, weight: float = 1.0, **fields: object
) -> ApiKey:
    key = await desired.key(host.tenant)
    await desired.limits(host.tenant, requests_per_s=100_000, burst=100_000, max_concurrent=1000, weight=weight)
    await desired.route({1: 10_000}, tenant=host.tenant, **{"version_fields": {"signature": UNBATCHED}, **fields})
    await desired.host(host, 1)
    await router.knows(key, 1)
    limits = router.app.deps.limits
    await until(lambda: limits.of(host.tenant).limits.max_concurrent == 1000, "the limits")
    return key


def place_of(router: RunningRouter) -> Place:
    return next(place for place in router.app.deps.places.all() if place.name == "default/node-1/cpu")


def asked(router: RunningRouter, key: ApiKey, count: int) -> Answers:
    return [asyncio.create_task(router.infer(key)) for _ in range(count)]


async def flooded(router: RunningRouter, flood: ApiKey, meek: ApiKey, held: Held) -> tuple[Answers, Answers]:
    """A place that `flood` has filled, beside one request of `meek`, and so many of `flood` wait as may."""
    first = asked(router, meek, 1)
    await until(lambda: len(held.order) == 1, "the first")
    flooding = asked(router, flood, INITIAL - 1 + QUEUED_A_TENANT)
    await until(lambda: place_of(router).queued == QUEUED_A_TENANT, "a full queue")
    return flooding, first


async def test_a_flood_keeps_no_tenant_inside_its_share_waiting(settings: RouterSettings, desired: Desired) -> None:
    held = Held()
    async with hosts(held, "flood", "meek") as there, serving(settings) as router:
        flood = await served(router, desired, there["flood"])
        meek = await served(router, desired, there["meek"])
        flooding, first = await flooded(router, flood, meek, held)
        assert place_of(router).running == INITIAL
        more = asked(router, meek, 5)
        await until(lambda: held.order.count("meek") == 6, "its requests, though the place is full")
        held.release()
        assert {(await answer).status_code for answer in [*first, *more, *flooding]} == {200}
        await until(lambda: place_of(router).running == 0, "the end")
        assert place_of(router).queued == 0


async def test_beyond_its_queue_a_flood_is_refused_and_told_to_come_again_and_nobody_else_is(
    settings: RouterSettings, desired: Desired
) -> None:
    held = Held()
    async with hosts(held, "flood", "meek") as there, serving(settings) as router:
        flood = await served(router, desired, there["flood"])
        meek = await served(router, desired, there["meek"])
        flooding, first = await flooded(router, flood, meek, held)
        refused = await router.infer(flood)
        assert (refused.status_code, refused.headers["moorage-error"]) == (503, "overloaded")
        assert refused.headers["retry-after"] == "1"
        more = asked(router, meek, QUEUED_A_TENANT)
        held.release()
        assert {(await answer).status_code for answer in [*first, *more, *flooding]} == {200}
        read = router.app.metrics.registry.get_sample_value
        assert read("moorage_router_overloaded_total", {"tenant": "flood"}) == 1
        assert read("moorage_router_overloaded_total", {"tenant": "meek"}) is None
        assert (read("moorage_router_waited_total", {"tenant": "flood"}) or 0) >= QUEUED_A_TENANT
        assert read("moorage_router_place_limit", {"place": "default/node-1/cpu"}) is not None


async def test_tenants_that_wait_get_turns_by_their_weights(settings: RouterSettings, desired: Desired) -> None:
    held = Held()
    async with hosts(held, "free", "premium") as there, serving(settings) as router:
        free = await served(router, desired, there["free"])
        premium = await served(router, desired, there["premium"], weight=4.0)
        first = asked(router, premium, 1)
        await until(lambda: len(held.order) == 1, "the first")
        waiting = asked(router, free, INITIAL - 1 + QUEUED_A_TENANT) + asked(router, premium, QUEUED_A_TENANT + 16)
        queued = place_of(router)._queue
        await until(lambda: queued.flow("free").queued >= 45 and queued.flow("premium").queued >= 50, "both to wait")
        await until(lambda: len(held.order) == place_of(router).running, "what runs to be at the hosts")
        before = len(held.order)
        held.release(90)
        await until(lambda: len(held.order) >= before + 40, "forty turns")
        assert held.order[before : before + 40].count("premium") == pytest.approx(32, abs=8), "after the lead of one"
        held.release()
        assert {(await answer).status_code for answer in [*first, *waiting]} <= {200, 503}, "some cannot wait"


async def test_a_request_whose_turn_does_not_come_is_dropped_at_its_deadline(
    settings: RouterSettings, desired: Desired
) -> None:
    held = Held()
    async with hosts(held, "flood", "meek") as there, serving(settings) as router:
        meek = await served(router, desired, there["meek"])
        flood = await served(router, desired, there["flood"], deadline_ms=1500)
        flooding, first = await flooded(router, flood, meek, held)
        answers = await asyncio.gather(*flooding)
        assert {answer.status_code for answer in answers} == {504}
        assert len(held.order) == INITIAL, "what waited was never sent"
        await until(lambda: place_of(router).queued == 0, "an empty queue")
        held.release()
        assert (await first[0]).status_code == 200
        assert (await router.infer(flood)).status_code == 200


async def test_callers_that_go_away_while_they_wait_take_no_turn_and_leave_no_place_taken(
    settings: RouterSettings, desired: Desired
) -> None:
    held = Held()
    async with hosts(held, "flood", "meek") as there, serving(settings) as router:
        flood = await served(router, desired, there["flood"])
        meek = await served(router, desired, there["meek"])
        flooding, first = await flooded(router, flood, meek, held)
        for answer in flooding:
            answer.cancel()
        await asyncio.gather(*flooding, return_exceptions=True)
        await until(lambda: place_of(router).queued == 0 and place_of(router).running == 1, "room")
        held.release()
        assert (await first[0]).status_code == 200
        assert {(await answer).status_code for answer in asked(router, flood, 40)} == {200}


async def test_a_caller_alone_is_not_limited(settings: RouterSettings, desired: Desired) -> None:
    held = Held()
    async with hosts(held, "flood") as there, serving(settings) as router:
        flood = await served(router, desired, there["flood"])
        answers = asked(router, flood, 90)
        await until(lambda: len(held.order) == 90, "all of them at the host")
        held.release()
        assert {(await answer).status_code for answer in answers} == {200}


async def test_by_arrival_a_flood_keeps_everybody_waiting(settings: RouterSettings, desired: Desired) -> None:
    settings.queue_order = "arrival"
    held = Held()
    async with hosts(held, "flood", "meek") as there, serving(settings) as router:
        flood = await served(router, desired, there["flood"])
        meek = await served(router, desired, there["meek"])
        flooding, first = await flooded(router, flood, meek, held)
        more = asked(router, meek, 1)
        await until(lambda: place_of(router).queued == QUEUED_A_TENANT + 1, "it to wait")
        held.release()
        assert {(await answer).status_code for answer in [*first, *more, *flooding]} == {200}
        assert "meek" in held.order[-5:], "after all that came before it"


async def test_where_the_order_is_off_nothing_waits(settings: RouterSettings, desired: Desired) -> None:
    settings.queue_order = "off"
    held = Held()
    async with hosts(held, "flood", "meek") as there, serving(settings) as router:
        flood = await served(router, desired, there["flood"])
        meek = await served(router, desired, there["meek"])
        answers = asked(router, meek, 1) + asked(router, flood, 80)
        await until(lambda: len(held.order) == 81, "all of them")
        held.release()
        assert {(await answer).status_code for answer in answers} == {200}


async def test_what_waited_for_a_replica_is_answered_and_not_shed_when_one_is_there(
    settings: RouterSettings, desired: Desired
) -> None:
    held = Held()
    async with hosts(held, "cold", "meek") as there, serving(settings) as router:
        meek = await served(router, desired, there["meek"])
        key = await desired.key("cold")
        await desired.limits("cold", requests_per_s=100_000, burst=100_000, max_concurrent=1000)
        await desired.route({1: 10_000}, tenant="cold", version_fields={"signature": UNBATCHED})
        await router.knows(key)
        await until(lambda: router.app.deps.limits.of("cold").limits.max_concurrent == 1000, "the limits")
        waiting = asked(router, key, INITIAL + 2 * QUEUED_A_TENANT)
        await until(lambda: router.app.deps.parking.parked("cold") == len(waiting), "all of them to park")
        first = asked(router, meek, 1)
        await until(lambda: held.order == ["meek"], "another tenant's request")
        await desired.host(there["cold"], 1)
        await until(lambda: place_of(router).queued >= 2 * QUEUED_A_TENANT, "them to wait their turn")
        held.release()
        assert {(await answer).status_code for answer in [*first, *waiting]} == {200}


async def test_when_all_room_for_the_parked_is_taken_whoever_has_most_by_weight_gives_way(
    settings: RouterSettings, desired: Desired
) -> None:
    settings.parked_bytes = 420_000
    async with serving(settings) as router:
        keys, parked = {}, router.app.deps.parking
        for tenant, weight in (("a", 1.0), ("b", 4.0), ("c", 4.0), ("d", 4.0), ("e", 1.0)):
            keys[tenant] = await desired.key(tenant)
            await desired.limits(tenant, weight=weight)
            await desired.route({1: 10_000}, tenant=tenant)
            await router.knows(keys[tenant])
            await until(lambda tenant=tenant, weight=weight: router.app.deps.limits.of(tenant).limits.weight == weight)
        waiting: dict[str, Answers] = {}
        for tenant in "abcd":
            waiting[tenant] = []
            for _ in range(2):
                waiting[tenant].append(asyncio.create_task(router.infer(keys[tenant], content=bytes(50_000))))
                await until(lambda tenant=tenant: parked.parked(tenant) == len(waiting[tenant]), "it to park")
        waiting["e"] = [asyncio.create_task(router.infer(keys["e"], content=bytes(50_000)))]
        refused = await waiting["a"][1]
        assert (refused.status_code, refused.headers["moorage-error"]) == (503, "too_many_waiting")
        await until(lambda: parked.parked("e") == 1, "the one that came")
        assert [parked.parked(tenant) for tenant in "abcd"] == [1, 2, 2, 2]
        assert parked.size <= settings.parked_bytes
        refused = await router.infer(keys["e"], content=bytes(50_000))
        assert refused.status_code == 503, "nobody gives way to one that would have more"
        for answer in (one for answers in waiting.values() for one in answers):
            answer.cancel()
        await asyncio.gather(*(one for answers in waiting.values() for one in answers), return_exceptions=True)
        await until(lambda: parked.size == 0, "free room")
