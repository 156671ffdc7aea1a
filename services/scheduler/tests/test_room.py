"""Room that is made on a full cluster: others move without a gap, scavengers go."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from scheduler_harness import Registry, Scheduler, infer, registry_on, scheduler_process, until, wanted

from moorage_common.contracts.desired import ArtifactRef
from moorage_local.ray_nodes import RayNodeSpec

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def scheduler(nats_url: str, several: Any, cache_dir: Path) -> Iterator[Scheduler]:
    for name in ("a", "b"):
        several.add(RayNodeSpec(name, gpus=1, cpus=2, memory_mib=4000))
    scheduler = scheduler_process(nats_url, several.address, cache_dir)
    scheduler.start()
    yield scheduler
    scheduler.kill()


@pytest.fixture
async def registry(nats_url: str, scheduler: Scheduler) -> AsyncIterator[Registry]:
    async with registry_on(nats_url) as registry:
        yield registry


async def test_a_replica_that_fits_nowhere_gets_its_place_after_another_moved_without_a_gap(
    registry: Registry, scheduler: Scheduler, artifact: ArtifactRef
) -> None:
    for model, milli in (("first", 700), ("right", 400), ("second", 550)):
        await registry.desire(model, wanted(model, artifact, gpu_milli=milli))
        await until(lambda model=model: registry.ready(model), model)
    await registry.desire("first")
    await until(lambda: len(registry.endpoints) == 2, "an empty node")
    await registry.desire("left", wanted("left", artifact, gpu_milli=400))
    await registry.desire("second")
    await until(lambda: registry.ready("left") and len(registry.endpoints) == 2, "a replica on each node")
    assert {e.node for e in registry.endpoints.values()} == {"a", "b"}
    gaps: list[str] = []

    def placed() -> bool:
        gaps.extend(model for model in ("left", "right") if not registry.ready(model))
        return bool(registry.ready("large"))

    await registry.desire("large", wanted("large", artifact, gpu_milli=800))
    await until(placed, "large one")
    assert gaps == []
    assert infer(registry.ready("large")[0], "large") == [3.0, 4.0]
    assert 'moves_total{outcome="done"} 1.0' in scheduler.get("/metrics").text


async def test_scavengers_go_for_what_is_asked_and_are_told_why(registry: Registry, artifact: ArtifactRef) -> None:
    scavenger = wanted("spare", artifact, replicas=2, gpu_milli=900).model_copy(
        update={"scheduling_class": "scavenger"}
    )
    await registry.desire("spare", scavenger)
    await until(lambda: len(registry.ready("spare")) == 2, "scavengers on both nodes")
    reasons: set[str] = set()

    def placed() -> bool:
        reasons.update(r.reason for r in registry.replicas("spare"))
        return bool(registry.ready("asked"))

    await registry.desire("asked", wanted("asked", artifact, gpu_milli=500))
    await until(placed, "replica in a scavenger's place")
    assert len(registry.ready("spare")) == 1, "no more went than needed"
    assert "its place was preempted" in reasons


async def test_a_replica_that_runs_counts_as_what_its_version_is_now(registry: Registry, artifact: ArtifactRef) -> None:
    scavenger = wanted("spare", artifact, replicas=2, gpu_milli=900).model_copy(
        update={"scheduling_class": "scavenger"}
    )
    await registry.desire("spare", scavenger)
    await until(lambda: len(registry.ready("spare")) == 2, "scavengers on both nodes")
    running = {endpoint.host_id for endpoint in registry.ready("spare")}
    await registry.desire("spare", scavenger.model_copy(update={"scheduling_class": "standard"}))
    await registry.desire("asked", wanted("asked", artifact, gpu_milli=500))
    await until(lambda: [r.state for r in registry.replicas("asked")] == ["pending"], "queued replica")
    assert {endpoint.host_id for endpoint in registry.ready("spare")} == running
