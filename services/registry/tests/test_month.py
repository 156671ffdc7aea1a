"""Requests a month: what routers hold and what the ledger has are never more than the limit."""

import asyncio
import random
import secrets
import time

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.contracts.names import QUOTA_SUBJECT
from moorage_common.contracts.quota import QuotaAsk, QuotaGrant, month_bounds, month_of
from moorage_common.contracts.usage import UsageChunk, UsageRow
from moorage_registry.deps import Registry
from moorage_registry.settings import Settings
from moorage_registry.testing import Caller, Platform, eventually, platform_of
from moorage_registry.usage.consumer import UsageConsumer
from moorage_registry.usage.reservations import Reservations

MONTH = "2026-11"
LIFE_S = 60.0
HOUR = 3600 * (1_794_000_000 // 3600)


class Router:
    """One boot: what it told, what it let pass, and the chunks it ships."""

    def __init__(self, tenant: str, name: str = "") -> None:
        self.tenant, self.name, self.boot = tenant, name or f"r{secrets.token_hex(4)}", secrets.token_hex(4)
        self.asked = self.spent = self.shipped = self.granted = self._chunk = 0

    def ask(self, want: int) -> QuotaAsk:
        self.asked += 1
        owner = f"{self.name}:{self.boot}"
        return QuotaAsk(
            tenant=self.tenant, owner=owner, month=MONTH, n=self.asked, spent=self.spent, want=want
        )  # fmt: skip

    def take(self, grant: QuotaGrant | None) -> int:
        assert grant is not None
        self.granted = self.spent + grant.granted
        return grant.granted

    def chunk(self) -> UsageChunk:
        """What was let pass and is not shipped yet."""
        row = UsageRow(
            tenant=self.tenant, model="m", version=1, kid="k", hour=HOUR, requests=self.spent - self.shipped
        )  # fmt: skip
        self.shipped, self._chunk = self.spent, self._chunk + 1
        return UsageChunk(router=self.name, boot=self.boot, n=self._chunk - 1, rows=[row])


class Now:
    """A clock that is set."""

    def __init__(self) -> None:
        self.at = HOUR + 60.0

    def __call__(self) -> float:
        return self.at


def reservations(registry: Registry, bus: Bus, now: Now) -> Reservations:
    return Reservations(registry.db, bus, now, LIFE_S)


def consumer(registry: Registry, bus: Bus) -> UsageConsumer:
    return UsageConsumer(registry.db, bus, time.time, lambda _new, _seen, _boots: None)


async def limited(platform: Platform, requests: int | None) -> Caller:
    caller = await platform.tenant()
    body = {"requests_per_month": requests}
    await platform.operator.ok("PUT", f"/v1/tenants/{caller.tenant}/limits", json=body)
    return caller


async def test_two_registries_on_one_database_never_grant_more_than_the_month_has(
    settings: Settings, platform: Platform, bus: Bus
) -> None:
    caller = await limited(platform, 1000)
    other_settings = settings.model_copy(update={"public_url": "http://other"})
    async with platform_of(other_settings) as other:
        now = Now()
        both = [reservations(one.registry, bus, now) for one in (platform, other)]
        intake = [consumer(one.registry, bus) for one in (platform, other)]
        routers = [Router(caller.tenant) for _ in range(6)]

        async def run(router: Router, seed: int) -> None:
            draw = random.Random(seed)
            for _ in range(40):
                router.take(await draw.choice(both).reserve(router.ask(draw.randrange(0, 60))))
                router.spent += draw.randint(0, router.granted - router.spent)
                if draw.random() < 0.5 and router.spent > router.shipped:
                    await draw.choice(intake).take_in([router.chunk()])

        await asyncio.gather(*(run(router, seed) for seed, router in enumerate(routers)))
        assert sum(router.granted for router in routers) <= 1000
        for router in routers:  # each goes home and ships: all of the month can be had by the last one
            await both[0].reserve(router.ask(0))
        while (last := routers[0].take(await both[1].reserve(routers[0].ask(1000)))) > 0:
            routers[0].spent += last
        assert sum(router.spent for router in routers) == 1000
        await intake[0].take_in([router.chunk() for router in routers])
        told = await caller.ok("GET", "/v1/usage")
        assert told["total"]["requests"] == 1000


async def test_what_a_dead_router_held_is_there_again_after_its_expiry_and_not_before(
    platform: Platform, bus: Bus
) -> None:
    caller, now = await limited(platform, 100), Now()
    answering = reservations(platform.registry, bus, now)
    dead, alive = Router(caller.tenant), Router(caller.tenant)
    assert dead.take(await answering.reserve(dead.ask(80))) == 80
    dead.spent = 30
    await consumer(platform.registry, bus).take_in([dead.chunk()])
    now.at += LIFE_S - 1
    assert alive.take(await answering.reserve(alive.ask(100))) == 10  # half of the room, which is 20
    now.at += 2
    assert alive.take(await answering.reserve(alive.ask(100))) == 70
    alive.spent = 70
    grant = await answering.reserve(alive.ask(100))
    assert grant is not None
    assert (grant.granted, grant.room, grant.held_by_others, grant.used) == (0, 0, 0, 30)


async def test_a_chunk_that_comes_twice_settles_its_reservation_once(platform: Platform, bus: Bus) -> None:
    caller, now = await limited(platform, 100), Now()
    answering, intake = reservations(platform.registry, bus, now), consumer(platform.registry, bus)
    router, other = Router(caller.tenant), Router(caller.tenant)
    router.take(await answering.reserve(router.ask(50)))
    router.spent = 20
    chunk = router.chunk()
    for _ in range(3):
        await intake.take_in([chunk])
    grant = await answering.reserve(other.ask(1000))
    assert grant is not None
    assert (grant.used, grant.held_by_others, grant.room) == (20, 30, 50)


async def test_a_question_that_a_later_one_overtook_changes_nothing(platform: Platform, bus: Bus) -> None:
    caller, now = await limited(platform, 100), Now()
    answering = reservations(platform.registry, bus, now)
    router, other = Router(caller.tenant), Router(caller.tenant)
    late = router.ask(5)
    router.take(await answering.reserve(router.ask(60)))
    assert await answering.reserve(late) is None
    assert other.take(await answering.reserve(other.ask(100))) == 20
    grant = await answering.reserve(other.ask(100))
    assert grant is not None
    assert grant.held_by_others == 60


async def test_a_router_that_is_spending_what_it_holds_keeps_it_however_many_others_ask(
    platform: Platform, bus: Bus
) -> None:
    caller, now = await limited(platform, 100), Now()
    answering = reservations(platform.registry, bus, now)
    first = Router(caller.tenant)
    assert first.take(await answering.reserve(first.ask(90))) == 90
    others = [Router(caller.tenant) for _ in range(5)]
    for other in others:
        other.take(await answering.reserve(other.ask(100)))
    assert first.take(await answering.reserve(first.ask(95))) >= 90
    assert first.granted + sum(other.granted for other in others) <= 100


async def test_what_was_let_pass_in_an_outage_counts_once_the_registry_is_back(platform: Platform, bus: Bus) -> None:
    caller, now = await limited(platform, 100), Now()
    answering = reservations(platform.registry, bus, now)
    alone, other = Router(caller.tenant), Router(caller.tenant)
    alone.take(await answering.reserve(alone.ask(10)))
    alone.spent = 70
    now.at += 10 * LIFE_S
    assert alone.take(await answering.reserve(alone.ask(0))) == 0
    assert other.take(await answering.reserve(other.ask(100))) == 15
    grant = await answering.reserve(other.ask(100))
    assert grant is not None
    assert grant.room == 30


async def test_registries_answer_routers_over_the_bus(platform: Platform, bus: Bus) -> None:
    caller = await limited(platform, 7)
    ask = Router(caller.tenant).ask(5)

    async def answer() -> QuotaGrant | None:
        await bus.client.publish(QUOTA_SUBJECT, b"not a question")
        try:
            reply = await bus.client.request(QUOTA_SUBJECT, ask.model_dump_json().encode(), timeout=1)
        except BUS_ERRORS:  # nobody listens yet
            return None
        return QuotaGrant.model_validate_json(reply.data)

    grant = await eventually(answer)
    assert (grant.granted, grant.limit, grant.used) == (5, 7, 0)


def test_a_month_is_the_calendars_in_utc() -> None:
    begin, end = month_bounds("2026-12")
    assert (month_of(begin), month_of(begin - 1), month_of(end - 1), month_of(end)) == (
        "2026-12", "2026-11", "2026-12", "2027-01",
    )  # fmt: skip
