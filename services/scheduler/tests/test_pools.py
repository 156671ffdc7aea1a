"""Pooled and warm hosts under a scheduler process, with real NATS and Ray."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from scheduler_harness import (
    TENANT,
    Registry,
    Scheduler,
    infer,
    pid_of,
    registry_on,
    scheduler_process,
    until,
    wanted,
)

from moorage_common.contracts.desired import ArtifactRef, DesiredVersion
from moorage_common.contracts.endpoints import Endpoint

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

Recorder = Callable[[str, object], None]


@pytest.fixture(scope="module")
def scheduler(nats_url: str, ray_address: str, cache_dir: Path) -> Iterator[Scheduler]:
    scheduler = scheduler_process(nats_url, ray_address, cache_dir, warm_least=1, warm_most=1, warm_memory_mib=64)
    scheduler.start()
    yield scheduler
    scheduler.kill()


@pytest.fixture
async def registry(nats_url: str, scheduler: Scheduler) -> AsyncIterator[Registry]:
    """A registry of this test; what the test desired is deleted and gone when it ends."""
    async with registry_on(nats_url) as registry:
        yield registry


def pooled(model: str, artifact: ArtifactRef, *, replicas: int = 1) -> DesiredVersion:
    return wanted(model, artifact, replicas=replicas).model_copy(update={"isolation": "pooled"})


def hosts(registry: Registry) -> set[str]:
    return {endpoint.host_id for endpoint in registry.endpoints.values()}


async def test_pooled_models_share_a_process_that_comes_back_with_all_of_them(
    registry: Registry, scheduler: Scheduler, artifact: ArtifactRef, record_property: Recorder
) -> None:
    await until(scheduler.ready, "ready scheduler")
    names = [f"p{number}" for number in range(30)]
    await asyncio.gather(*(registry.desire(name, pooled(name, artifact)) for name in names))
    record_property("pool_start_s", await until(lambda: all(registry.ready(name) for name in names), "ready models"))
    (endpoint,) = registry.endpoints.values()
    assert all(infer(endpoint, name) == [3.0, 4.0] for name in names)
    await until(lambda: [r.state for r in registry.replicas("p7")] == ["ready"], "status by version")
    assert registry.replicas("p7")[0].host_id == endpoint.host_id

    await registry.desire("p30", pooled("p30", artifact))
    record_property("one_more_s", await until(lambda: registry.ready("p30"), "one more"))
    await registry.desire("p3")
    await until(lambda: not registry.ready("p3"), "one less")
    assert hosts(registry) == {endpoint.host_id}

    os.kill(pid_of(endpoint), signal.SIGKILL)
    rest = [name for name in [*names, "p30"] if name != "p3"]

    def back() -> list[Endpoint]:
        answering = [e for e in registry.ready("p0") if e.generation != endpoint.generation]
        return answering if all(registry.ready(name) for name in rest) else []

    record_property("pool_recovery_s", await until(back, "the pool again"))
    assert [e.host_id for e in back()] == [endpoint.host_id]


async def test_a_broken_version_fails_alone_in_its_pool(
    registry: Registry, artifact: ArtifactRef, cached: Callable[[bytes], ArtifactRef]
) -> None:
    await registry.desire("sound", pooled("sound", artifact))
    await registry.desire("unsound", pooled("unsound", cached(b"no network at all")))
    await until(lambda: [r.state for r in registry.replicas("unsound")] == ["failed"], "failure")
    assert registry.replicas("unsound")[0].reason
    await until(lambda: registry.ready("sound"), "the other")
    await registry.desire("unsound", pooled("unsound", artifact))
    await until(lambda: registry.ready("unsound"), "what was repaired")


async def test_a_pool_has_as_many_hosts_as_a_version_wants_replicas(registry: Registry, artifact: ArtifactRef) -> None:
    await registry.desire("one", pooled("one", artifact))
    await registry.desire("two", pooled("two", artifact, replicas=2))
    await until(lambda: len(registry.ready("two")) == 2, "two hosts")
    await registry.desire("two")
    await until(lambda: len(hosts(registry)) == 1 and registry.ready("one"), "one host again")


async def test_a_version_that_becomes_pooled_answers_all_the_while(registry: Registry, artifact: ArtifactRef) -> None:
    await registry.desire("moving", wanted("moving", artifact))
    await until(lambda: registry.ready("moving"), "dedicated replica")
    (alone,) = registry.ready("moving")
    await registry.desire("moving", pooled("moving", artifact))
    gap = False

    def moved() -> bool:
        nonlocal gap
        gap = gap or not registry.ready("moving")
        return bool(registry.ready("moving")) and alone.host_id not in hosts(registry)

    await until(moved, "a pooled replica alone")
    assert not gap


async def test_a_replica_starts_in_a_warm_host_and_comes_back_in_it(
    registry: Registry, scheduler: Scheduler, artifact: ArtifactRef, record_property: Recorder
) -> None:
    await until(lambda: scheduler.get("/v1/placements").json()["warm"], "warm host")
    await registry.desire("quick", wanted("quick", artifact, gpu_milli=300))
    record_property("warm_start_s", await until(lambda: registry.ready("quick"), "replica"))
    (endpoint,) = registry.ready("quick")
    assert endpoint.host_id.startswith("_warm.")
    assert len(endpoint.devices) == 1
    assert infer(endpoint, "quick") == [3.0, 4.0]
    assert endpoint.tenant == TENANT

    os.kill(pid_of(endpoint), signal.SIGKILL)

    def again() -> list[Endpoint]:
        return [e for e in registry.ready("quick") if e.generation != endpoint.generation]

    record_property("warm_recovery_s", await until(again, "the replica again"))
    assert (again()[0].host_id, again()[0].devices) == (endpoint.host_id, endpoint.devices)

    scheduler.kill()
    scheduler.start()
    await until(scheduler.ready, "scheduler")
    await until(again, "the adopted replica")
    assert infer(again()[0], "quick") == [3.0, 4.0]
