"""Batches of signals on the bus: in order, none twice, and what an outage or a kill of the router costs."""

import asyncio
import os
import signal
from collections.abc import Callable

import httpx
from framed_host import FramedHost
from nats.js.errors import NotFoundError
from router_harness import Desired, RouterProcess, RunningRouter, serving, until
from signals_reader import ROLLOUT, rolling

from moorage_common.bus import Bus
from moorage_common.contracts import names
from moorage_common.contracts.signals import ArmCounts, SignalBatch
from moorage_common.testing.servers import Server
from moorage_router.settings import RouterSettings
from moorage_router.signals.book import ENDED_KEPT, Book
from moorage_router.signals.shipper import SignalsShipper


async def stored(bus: Bus) -> list[SignalBatch]:
    """What the stream holds, in its order."""
    try:
        state = (await bus.jetstream().stream_info(names.STREAM_SIGNALS)).state
    except NotFoundError:
        return []
    found = []
    for sequence in range(max(1, state.first_seq), state.last_seq + 1):
        message = await bus.jetstream().get_msg(names.STREAM_SIGNALS, sequence)
        found.append(SignalBatch.model_validate_json(message.data or b""))
    return found


async def until_stored(bus: Bus, condition: Callable[[list[SignalBatch]], bool]) -> list[SignalBatch]:
    async with asyncio.timeout(20):
        while not condition(found := await stored(bus)):  # noqa: ASYNC110 - polls the stream
            await asyncio.sleep(0.05)
    return found


def requests(batches: list[SignalBatch]) -> int:
    return sum(host.requests for batch in batches for arm in (batch.stable, batch.candidate) for host in arm.hosts)


def batch(seq: int) -> SignalBatch:
    return SignalBatch(
        router="r", boot="b", seq=seq, tenant="demo", model="m", rollout="r-1", revision=1, opened_at=0.0,
        closed_at=1.0, candidate=ArmCounts(version=2), stable=ArmCounts(version=1),
    )  # fmt: skip


async def test_batches_wait_while_the_bus_is_away_and_come_once_and_in_order(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost, own_nats: Server
) -> None:
    key = await rolling(router, desired, framed, other)
    await router.burst(key, 10, 2)
    await until_stored(desired.bus, lambda found: requests(found) == 10)
    os.kill(own_nats.pid, signal.SIGSTOP)
    try:
        await router.burst(key, 1000, 4)
        await until(lambda: router.app.deps.signals.waiting >= 2, "batches that wait")
    finally:
        os.kill(own_nats.pid, signal.SIGCONT)
    found = await until_stored(desired.bus, lambda found: requests(found) >= 1010)
    assert requests(found) == 1010
    assert [one.seq for one in found] == list(range(1, len(found) + 1))
    assert (router.app.deps.signals.sent, router.app.deps.signals.dropped) == (len(found), 0)


async def test_a_bus_that_came_back_with_nothing_gets_the_next_batches(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost, own_nats: Server
) -> None:
    key = await rolling(router, desired, framed, other)
    await router.burst(key, 10, 2)
    before = await until_stored(desired.bus, lambda found: requests(found) == 10)
    own_nats.kill()
    own_nats.start()
    await until(lambda: desired.bus.connected and router.app.deps.bus.connected, "the bus")
    await router.burst(key, 10, 2)
    after = await until_stored(desired.bus, lambda found: requests(found) == 10)
    assert after[0].seq == before[-1].seq + 1


async def test_a_killed_router_loses_its_open_batches_alone_and_the_next_counts_anew(
    settings: RouterSettings, desired: Desired, framed: FramedHost, other: FramedHost
) -> None:
    key = await desired.key()
    await desired.route({1: 5000, 2: 5000}, rollout=ROLLOUT)
    await desired.host(framed, 1)
    await desired.host(other, 2)

    def asked() -> int:
        return len(framed.calls) + len(other.calls)

    async with httpx.AsyncClient(timeout=30) as client:
        first = RouterProcess(settings)
        try:
            await first.answers(key, client)
            assert [await first.infer(key, client) for _ in range(10)] == [200] * 10
            told = asked()
            before = await until_stored(desired.bus, lambda found: requests(found) == told)
            assert [await first.infer(key, client) for _ in range(5)] == [200] * 5
        finally:
            first.end(signal.SIGKILL)
        lost = asked() - told
        second = RouterProcess(settings)
        try:
            await second.answers(key, client)
            assert [await second.infer(key, client) for _ in range(10)] == [200] * 10
        finally:
            second.end(signal.SIGTERM)
    found = await stored(desired.bus)
    assert requests(found) == asked() - lost
    assert len({one.batch_id for one in found}) == len(found)
    anew = [one for one in found if one.boot != before[0].boot]
    assert [one.seq for one in anew] == list(range(1, len(anew) + 1))


async def test_a_router_that_ends_tells_what_it_has_counted(
    settings: RouterSettings, desired: Desired, framed: FramedHost, other: FramedHost
) -> None:
    async with serving(settings) as router:
        key = await rolling(router, desired, framed, other)
        await router.burst(key, 30, 2)
    assert requests(await stored(desired.bus)) == 30


async def test_a_router_counts_for_a_rollout_that_it_knows_from_its_snapshot_alone(
    settings: RouterSettings, desired: Desired, framed: FramedHost, other: FramedHost, own_nats: Server
) -> None:
    async with serving(settings) as router:
        key = await rolling(router, desired, framed, other)
    own_nats.kill()
    async with serving(settings) as router:
        await router.knows(key, 1, 2)
        assert {status for status, _ in await router.burst(key, 30, 2)} == {200}
        await until(lambda: router.app.deps.signals.waiting == 1, "the batch")
        own_nats.start()
        found = await until_stored(desired.bus, bool)
    assert requests(found) == 30


async def test_of_more_batches_than_may_wait_the_oldest_are_dropped_and_counted(desired: Desired) -> None:
    shipper = SignalsShipper(desired.bus, most_waiting=3)
    for seq in range(1, 6):
        shipper.take(batch(seq))
    assert (shipper.waiting, shipper.dropped) == (3, 2)
    await shipper.close()
    assert [one.seq for one in await stored(desired.bus)] == [3, 4, 5]
    assert (shipper.waiting, shipper.sent) == (0, 3)


async def test_a_batch_that_is_too_large_for_a_message_does_not_hold_up_the_others(desired: Desired) -> None:
    shipper = SignalsShipper(desired.bus)
    shipper.take(batch(1).model_copy(update={"stratum": "x" * desired.bus.client.max_payload}))
    shipper.take(batch(2))
    await shipper.close()
    assert [one.seq for one in await stored(desired.bus)] == [2]
    assert (shipper.sent, shipper.dropped) == (1, 1)


async def test_a_batch_that_is_sent_again_is_stored_once(desired: Desired) -> None:
    for _ in range(2):
        shipper = SignalsShipper(desired.bus)
        shipper.take(batch(1))
        await shipper.close()
    assert [one.seq for one in await stored(desired.bus)] == [1]


def test_rollouts_that_are_started_and_aborted_without_end_take_no_memory_for_good() -> None:
    book = Book("router", "boot", lambda _batch: None)
    for number in range(2 * ENDED_KEPT):
        assert book.next_seq(f"ended-{number}") == 1
        book.next_seq("running")
    assert len(book._seqs) == ENDED_KEPT
    assert book.next_seq("running") == 2 * ENDED_KEPT + 1
