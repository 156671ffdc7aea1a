"""The ledger: every chunk counts once, in whatever order and however often it comes."""

import asyncio
import random
import secrets
from collections.abc import Sequence

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.contracts.names import STREAM_USAGE, usage_subject
from moorage_common.contracts.usage import UsageChunk, UsageRow
from moorage_common.testing.servers import Server
from moorage_registry.testing import Caller, Platform, eventually
from moorage_registry.usage.repository import LedgerRepository

HOUR = 3600 * 480_000


def chunk(tenant: str, boot: str, n: int, requests: int = 1, **place: object) -> UsageChunk:
    row = {"tenant": tenant, "model": "digits", "version": 1, "kid": "k", "hour": HOUR, **place}
    sums = {"requests": requests, "errors": 1, "rows": 2, "bytes_in": 3, "bytes_out": 4, "busy_us": 5}
    return UsageChunk(router="router-0", boot=boot, n=n, rows=[UsageRow.model_validate(row | sums)])


async def ship(bus: Bus, chunks: Sequence[UsageChunk], *, deduplicate: bool = True) -> None:
    for one in chunks:
        headers = {"Nats-Msg-Id": one.chunk_id} if deduplicate else None
        await bus.jetstream().publish(usage_subject(one.router), one.model_dump_json().encode(), headers=headers)


async def until_counted(caller: Caller, requests: int) -> None:
    async def counted() -> bool:
        total: int = (await caller.ok("GET", "/v1/usage"))["total"]["requests"]
        assert total <= requests
        return total == requests

    await eventually(counted, 30)


async def stream_exists(bus: Bus) -> bool:
    try:
        await bus.jetstream().stream_info(STREAM_USAGE)
    except BUS_ERRORS:
        return False
    return True


async def test_duplicated_and_reordered_chunks_count_once(demo: Caller, bus: Bus) -> None:
    boot = secrets.token_hex(4)
    chunks = [chunk(demo.tenant, boot, n, requests=n + 1) for n in range(200)]
    delivered = chunks + random.Random(7).sample(chunks, 40)
    random.Random(11).shuffle(delivered)
    await eventually(lambda: stream_exists(bus))
    await ship(bus, delivered, deduplicate=False)
    last = chunk(demo.tenant, boot, 200, requests=1)
    await ship(bus, [last])
    await until_counted(demo, sum(range(1, 201)) + 1)


async def test_the_ledger_goes_on_when_nats_was_killed_and_when_its_stream_was_wiped(
    own_platform: Platform, own_bus: Bus, own_nats: Server
) -> None:
    demo = await own_platform.tenant()
    await eventually(lambda: stream_exists(own_bus))
    await ship(own_bus, [chunk(demo.tenant, "b1", 0)])
    await until_counted(demo, 1)

    await asyncio.to_thread(own_nats.restart)

    async def shipped_again() -> bool:
        try:
            await ship(own_bus, [chunk(demo.tenant, "b1", 0), chunk(demo.tenant, "b1", 1)])
        except BUS_ERRORS:
            return False
        return True

    await eventually(shipped_again)
    await until_counted(demo, 2)

    await own_bus.jetstream().delete_stream(STREAM_USAGE)

    async def made_again() -> bool:
        return await stream_exists(own_bus)

    await eventually(made_again, 30)
    await ship(own_bus, [chunk(demo.tenant, "b1", 2)])
    await until_counted(demo, 3)


async def test_a_chunk_that_cannot_be_read_stops_nothing(demo: Caller, bus: Bus) -> None:
    await eventually(lambda: stream_exists(bus))
    boot = secrets.token_hex(4)
    await bus.jetstream().publish(usage_subject("router-0"), b"not a chunk")
    await ship(bus, [chunk(demo.tenant, boot, 0), chunk(demo.tenant, boot, 1, hour=2**80), chunk(demo.tenant, boot, 2)])
    await until_counted(demo, 2)


async def test_a_gap_in_chunk_numbers_is_counted_until_it_closes(platform: Platform, demo: Caller, bus: Bus) -> None:
    boot, router = secrets.token_hex(4), f"router-{secrets.token_hex(4)}"
    chunks = [chunk(demo.tenant, boot, n).model_copy(update={"router": router}) for n in range(3)]
    gauge = platform.registry.metrics.missing.labels(router)
    await eventually(lambda: stream_exists(bus))
    await ship(bus, [chunks[0], chunks[2]])
    await until_counted(demo, 2)

    def missing() -> float:
        (family,) = gauge.collect()
        return family.samples[0].value

    assert missing() == 1
    await ship(bus, [chunks[1]])
    await until_counted(demo, 3)
    assert missing() == 0


async def test_chunk_ids_are_forgotten_only_after_the_stream_forgot_the_chunks(platform: Platform) -> None:
    async with platform.registry.db.write() as session:
        ledger = LedgerRepository(session)
        old, new = (chunk("t", secrets.token_hex(4), 0) for _ in range(2))
        await ledger.claim([old], 1000.0)
        await ledger.claim([new], 2000.0)
        await ledger.forget(1500.0)
        assert await ledger.claim([old, new], 3000.0) == {old.chunk_id}


async def test_usage_is_grouped_as_asked_and_cut_by_hour(demo: Caller, bus: Bus) -> None:
    boot = secrets.token_hex(4)
    places = [
        {"model": "digits", "version": 1, "kid": "k1", "hour": HOUR},
        {"model": "digits", "version": 2, "kid": "k1", "hour": HOUR},
        {"model": "fraud", "version": 1, "kid": "k2", "hour": HOUR + 3600},
    ]
    await eventually(lambda: stream_exists(bus))
    await ship(bus, [chunk(demo.tenant, boot, n, requests=10**n, **place) for n, place in enumerate(places)])
    await until_counted(demo, 111)
    by_model = await demo.ok("GET", "/v1/usage", params={"by": "model"})
    assert [(row["model"], row["requests"]) for row in by_model["rows"]] == [("digits", 11), ("fraud", 100)]
    assert by_model["total"] == {
        "requests": 111, "errors": 3, "rows": 6, "bytes_in": 9, "bytes_out": 12, "busy_us": 15
    }  # fmt: skip
    several = await demo.ok("GET", "/v1/usage", params={"by": "key,version,hour"})
    assert [(r["key"], r["version"], r["hour"], r["requests"]) for r in several["rows"]] == [
        ("k1", 1, "2024-10-04T00:00:00.000Z", 1),
        ("k1", 2, "2024-10-04T00:00:00.000Z", 10),
        ("k2", 1, "2024-10-04T01:00:00.000Z", 100),
    ]
    later = await demo.ok("GET", "/v1/usage", params={"from": "2024-10-04T01:00:00Z"})
    assert later["total"]["requests"] == 100
    earlier = await demo.ok("GET", "/v1/usage", params={"to": "2024-10-04T01:00:00Z"})
    assert earlier["total"]["requests"] == 11
    assert (await demo.call("GET", "/v1/usage", params={"by": "colour"})).json()["code"] == "unknown_group"
