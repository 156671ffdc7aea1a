"""Two scheduler processes on one Ray cluster: one leads, and what it leaves undone is neither doubled nor leaked."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import ray
from ray.util.placement_group import placement_group_table
from scheduler_harness import Registry, Scheduler, registry_on, scheduler_process, until, wanted

from moorage_common.contracts.desired import ArtifactRef
from moorage_scheduler.cluster import NAMESPACE, Cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Recorder = Callable[[str, object], None]
REPLICAS = 6


@pytest.fixture
def pair(nats_url: str, ray_address: str, cache_dir: Path) -> Iterator[tuple[Scheduler, Scheduler]]:
    both = (
        scheduler_process(nats_url, ray_address, cache_dir),
        scheduler_process(nats_url, ray_address, cache_dir),
    )
    try:
        yield both
    finally:
        for one in both:
            if one.process is not None:
                one.kill()


@pytest.fixture
async def registry(nats_url: str, pair: tuple[Scheduler, Scheduler]) -> AsyncIterator[Registry]:
    async with registry_on(nats_url) as registry:
        yield registry


def role(scheduler: Scheduler) -> str:
    found: str = scheduler.get("/v1/placements").json()["role"]
    return found


async def test_a_leader_killed_while_it_places_leaves_nothing_placed_twice_and_nothing_behind(
    pair: tuple[Scheduler, Scheduler],
    registry: Registry,
    cluster: Cluster,
    artifact: ArtifactRef,
    record_property: Recorder,
) -> None:
    leader, other = pair
    leader.start()
    await until(leader.ready, "leader")
    other.start()
    await until(other.ready, "ready standby")
    assert (role(leader), role(other)) == ("leader", "standby")

    version = wanted("many", artifact, replicas=REPLICAS, gpu_milli=250)
    await registry.desire("many", version, wanted("many", artifact, version=2, replicas=2, cpu_milli=60))
    await until(lambda: len(named("many")) >= 2, "first actors")
    leader.kill()
    killed_at = time.monotonic()
    await until(lambda: role(other) == "leader" and other.ready(), "takeover")
    record_property("takeover_s", round(time.monotonic() - killed_at, 2))
    await until(lambda: len(registry.ready("many")) == REPLICAS, "all replicas")
    await until(lambda: len(registry.ready("many", 2)) == 2, "all of the other version")
    record_property("all_ready_s", round(time.monotonic() - killed_at, 2))

    ready = {endpoint.host_id for endpoint in registry.endpoints.values()}
    await until(lambda: set(named("many")) == ready, "one actor a replica")
    assert len(ready) == REPLICAS + 2
    groups = [e["name"] for e in placement_group_table().values() if e["state"] != "REMOVED"]
    assert len(groups) == len(set(groups)) == 2, "one group of GPUs and one of CPUs for the node"


async def test_a_stopped_leader_that_goes_on_changes_nothing_and_ends(
    pair: tuple[Scheduler, Scheduler], registry: Registry, cluster: Cluster, artifact: ArtifactRef
) -> None:
    leader, other = pair
    leader.start()
    await until(leader.ready, "leader")
    await registry.desire("kept", wanted("kept", artifact, gpu_milli=500))
    await until(lambda: registry.ready("kept"), "replica")
    other.start()
    await until(other.ready, "standby")
    assert leader.process is not None
    leader.process.send_signal(signal.SIGSTOP)
    await until(lambda: role(other) == "leader" and other.ready(), "takeover")
    await registry.desire("kept", wanted("kept", artifact, replicas=3, gpu_milli=500))
    await until(lambda: len(registry.ready("kept")) == 3, "more replicas, of the new leader")
    leader.process.send_signal(signal.SIGCONT)
    assert await asyncio.to_thread(leader.process.wait, 30) == 1
    assert role(other) == "leader"
    assert set(named("kept")) == {endpoint.host_id for endpoint in registry.ready("kept")}
    assert len(named("kept")) == 3


def named(model: str) -> list[str]:
    """Actors of a model's hosts."""
    names = [
        entry["name"] for entry in ray.util.list_named_actors(all_namespaces=True) if entry["namespace"] == NAMESPACE
    ]
    return [name for name in names if name.split(".")[1] == model]
