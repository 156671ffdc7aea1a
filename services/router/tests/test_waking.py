"""Requests to a version without a replica wait, wake its scheduler, and never fill the router's memory."""

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import pytest
from router_harness import BODY, Desired, FakeHost, RunningRouter, serving, until

from moorage_common.api_keys import ApiKey
from moorage_common.bus import Bus
from moorage_common.contracts.load import Wake, WakeAnswer
from moorage_common.contracts.names import wake_subject
from moorage_common.testing.servers import Server
from moorage_router.replicas import Replicas
from moorage_router.settings import RouterSettings


class Scheduler:
    """Answers wakes of the cluster `default`, or keeps silent."""

    def __init__(self, url: str) -> None:
        self.bus = Bus(url, "scheduler")
        self.woken: list[Wake] = []
        self.ready_in_s: float | None = None
        self.silent = False

    async def start(self) -> None:
        await self.bus.start()
        await self.bus.wait(10)
        await self.bus.client.subscribe(wake_subject("default"), cb=self._on_wake)
        await self.bus.client.flush()

    async def _on_wake(self, message: object) -> None:
        self.woken.append(Wake.model_validate_json(message.data))
        if not self.silent:
            await message.respond(WakeAnswer(ready_in_s=self.ready_in_s).model_dump_json().encode())


@pytest.fixture
async def scheduler(own_nats: Server) -> AsyncIterator[Scheduler]:
    scheduler = Scheduler(own_nats.url)
    await scheduler.start()
    yield scheduler
    await scheduler.bus.close()


async def asleep(router: RunningRouter, desired: Desired, tenant: str = "demo", **fields: object) -> ApiKey:
    """A version that has no replica."""
    key = await desired.key(tenant)
    await desired.limits(tenant, requests_per_s=100_000, burst=100_000, max_concurrent=1000)
    await desired.route({1: 10_000}, tenant=tenant, cluster="default", **fields)
    await router.knows(key)
    await until(lambda: tenant in router.app.deps.limits.tenants, "the limits")
    await until(lambda: router.app.deps.limits.tenants[tenant].limits.max_concurrent == 1000, "the limits")
    return key


def replicas_of(router: RunningRouter, tenant: str = "demo") -> Replicas:
    return router.app.deps.routes.find(tenant, "m").versions[1].replicas


def metric(router: RunningRouter, name: str, **labels: str) -> float:
    return router.app.metrics.registry.get_sample_value(name, labels) or 0.0


async def test_many_requests_to_a_sleeping_version_are_one_wake_and_are_answered_once_it_is_there(
    router: RunningRouter, desired: Desired, host: FakeHost, scheduler: Scheduler
) -> None:
    key = await asleep(router, desired)
    waiting = [asyncio.create_task(router.infer(key)) for _ in range(40)]
    await until(lambda: replicas_of(router).parked == 40, "40 parked requests")
    await until(lambda: scheduler.woken, "the wake")
    assert router.app.deps.parking.size >= 40 * len(BODY)
    await desired.host(host, 1)
    assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
    assert scheduler.woken == [Wake(tenant="demo", model="m", version=1)]
    assert metric(router, "moorage_router_wakes_total", outcome="answered") == 1
    assert metric(router, "moorage_router_wake_to_answer_seconds_count") == 1
    assert router.app.deps.parking.size == 0
    assert router.app.deps.parking.parked("demo") == 0


async def test_a_wake_that_nobody_answers_is_sent_again_while_requests_wait_and_no_longer(
    router: RunningRouter, desired: Desired, scheduler: Scheduler
) -> None:
    scheduler.silent = True
    key = await asleep(router, desired)
    waiting = asyncio.create_task(router.infer(key))
    await until(lambda: len(scheduler.woken) >= 2, "another wake")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await until(lambda: replicas_of(router).parked == 0, "the end of waiting")
    known = router.app.deps.waker._known[replicas_of(router)]
    assert known.task is None
    assert known.since is None


async def test_a_refusal_says_when_the_version_should_be_ready(
    settings: RouterSettings, desired: Desired, scheduler: Scheduler
) -> None:
    settings.park_s = 0.6
    scheduler.ready_in_s = 42.0
    async with serving(settings) as router:
        key = await asleep(router, desired)
        refused = await router.infer(key)
        assert (refused.status_code, refused.headers["moorage-error"]) == (503, "no_replica")
        assert refused.headers["retry-after"] == "42"
        scheduler.ready_in_s = None
        await desired.route({1: 10_000}, model="other", cluster="default")
        await router.knows(key, model="other")
        refused = await router.infer(key, path="/v2/models/other/infer")
        assert refused.headers["retry-after"] == "5", "no such start is known"


async def test_with_the_bus_away_requests_wait_within_their_deadline_and_are_refused_then(
    router: RunningRouter, desired: Desired, own_nats: Server
) -> None:
    key = await asleep(router, desired, deadline_ms=1500)
    own_nats.kill()
    await until(lambda: not router.app.deps.bus.connected, "the loss of the bus")
    began = time.monotonic()
    refused = await router.infer(key)
    assert (refused.status_code, refused.headers["moorage-error"]) == (503, "no_replica")
    assert 1.2 < time.monotonic() - began < 5
    assert metric(router, "moorage_router_wakes_total", outcome="unanswered") >= 1


async def test_a_tenants_waiting_bodies_take_a_quarter_of_the_room_and_leave_the_rest_to_others(
    settings: RouterSettings, desired: Desired, scheduler: Scheduler, host: FakeHost
) -> None:
    settings.parked_bytes = 1_000_000
    async with serving(settings) as router:
        key = await asleep(router, desired)
        other = await asleep(router, desired, "other")
        large = bytes(100_000)
        waiting = [asyncio.create_task(router.infer(key, content=large)) for _ in range(2)]
        await until(lambda: replicas_of(router).parked == 2, "two parked requests")
        refused = await router.infer(key, content=large)
        assert (refused.status_code, refused.headers["moorage-error"]) == (503, "too_many_waiting")
        assert "retry-after" in refused.headers
        streamed = await router.infer(key, content=bytes(300_000))
        assert streamed.status_code == 503, "a long body counts what may be read ahead of it"
        waiting.append(asyncio.create_task(router.infer(other, content=large)))
        await until(lambda: replicas_of(router, "other").parked == 1, "another tenant's request")
        await desired.host(host, 1)
        assert {(await answer).status_code for answer in waiting[:2]} == {200}
        waiting[2].cancel()
        await asyncio.gather(waiting[2], return_exceptions=True)
        await until(lambda: router.app.deps.parking.size == 0, "free room")


async def test_no_flood_of_large_requests_takes_more_than_the_room(
    settings: RouterSettings, desired: Desired, scheduler: Scheduler
) -> None:
    settings.parked_bytes = 4_000_000
    async with serving(settings) as router:
        key = await asleep(router, desired, deadline_ms=1500)
        largest = 0

        async def one() -> int:
            nonlocal largest
            answer = asyncio.create_task(router.infer(key, content=bytes(50_000)))
            while not answer.done():
                largest = max(largest, router.app.deps.parking.size)
                await asyncio.sleep(0.01)
            return answer.result().status_code

        statuses = await asyncio.gather(*(one() for _ in range(60)))
        assert set(statuses) == {503}
        assert 900_000 < largest <= 1_000_000


async def test_a_version_whose_replica_is_ready_wakes_nobody(
    router: RunningRouter, desired: Desired, host: FakeHost, scheduler: Scheduler
) -> None:
    key = await asleep(router, desired)
    await desired.host(host, 1)
    await router.knows(key, 1)
    answers: list[httpx.Response] = await asyncio.gather(*(router.infer(key) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert scheduler.woken == []
