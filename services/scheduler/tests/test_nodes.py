"""Nodes that come, go and are drained, as Ray nodes of their own with real replica hosts."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from scheduler_harness import CLUSTER, Registry, Scheduler, infer, pid_of, registry_on, scheduler_process, until, wanted

from moorage_common.bus import Bus
from moorage_common.contracts.cluster import ClusterIntent
from moorage_common.contracts.desired import ArtifactRef
from moorage_common.contracts.names import BUCKET_CLUSTERS
from moorage_common.contracts.versioned import Versioned
from moorage_common.kv import BucketWriter
from moorage_local.ray_nodes import RayNodeSpec
from moorage_scheduler.crashes import CRASHES

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster_of_two(several: Any) -> Any:
    """Nodes `a` and `b` with a GPU each, beside a head without any."""
    for name in ("a", "b"):
        several.add(RayNodeSpec(name, gpus=1, cpus=2, memory_mib=4000, gpu_model="T4", gpu_mib=16000))
    return several


@pytest.fixture(scope="module")
def scheduler(nats_url: str, cluster_of_two: Any, cache_dir: Path) -> Iterator[Scheduler]:
    scheduler = scheduler_process(nats_url, cluster_of_two.address, cache_dir)
    scheduler.environment |= {"MOORAGE_NODE_GRACE_S": "1", "MOORAGE_MOVE_COOLDOWN_S": "2"}
    scheduler.start()
    yield scheduler
    scheduler.kill()


class Operator:
    """Writes what is wanted of the cluster, as a registry does."""

    def __init__(self, bus: Bus) -> None:
        self.entries: dict[str, Versioned] = {}
        self.writer = BucketWriter(bus, BUCKET_CLUSTERS, "registry", self.source)

    async def source(self) -> Mapping[str, Versioned]:
        return self.entries

    async def drain(self, *nodes: str) -> None:
        value = ClusterIntent(cluster=CLUSTER, drained=list(nodes)).model_dump(mode="json")
        entry = self.entries[CLUSTER] = Versioned(epoch=1, version=time.time_ns(), value=value)
        assert await self.writer.put(CLUSTER, entry)


@pytest.fixture
async def registry(nats_url: str, scheduler: Scheduler) -> AsyncIterator[Registry]:
    async with registry_on(nats_url) as registry:
        yield registry


@pytest.fixture
async def operator(nats_url: str, registry: Registry) -> AsyncIterator[Operator]:
    bus = Bus(nats_url, "operator")
    await bus.start()
    await bus.wait(30)
    operator = Operator(bus)
    beat = asyncio.create_task(operator.writer.run())
    yield operator
    await operator.drain()
    beat.cancel()
    await asyncio.gather(beat, return_exceptions=True)
    await bus.close()


def node_of(registry: Registry, model: str) -> str:
    ready = registry.ready(model)
    return ready[0].node if len(ready) == 1 else ""


LIST = """
import json, ray
ray.init(address="{address}", namespace="moorage", log_to_driver=False, configure_logging=False)
groups = ray.util.placement_group_table().values()
alive = [n["Labels"].get("moorage.io/node") for n in ray.nodes() if n["Alive"]]
print(json.dumps([sorted(alive), sorted(g["name"] for g in groups if g["state"] != "REMOVED"),
    [a["name"] for a in ray.util.list_named_actors(all_namespaces=True)]]))
"""


def left_on(address: str) -> tuple[list[str], list[str], list[str]]:
    """Names of the live nodes, of all groups and of all actors."""
    script = LIST.format(address=address)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    nodes, groups, actors = json.loads(done.stdout.strip().splitlines()[-1])
    return nodes, groups, actors


async def test_a_lost_node_is_replanned_elsewhere_and_gets_its_groups_again_when_it_returns(
    registry: Registry, artifact: ArtifactRef, cluster_of_two: Any
) -> None:
    await registry.desire("kept", wanted("kept", artifact, gpu_milli=400))
    await until(lambda: node_of(registry, "kept"), "replica")
    lost = node_of(registry, "kept")
    cluster_of_two.kill(lost)
    await until(lambda: node_of(registry, "kept") not in ("", lost), "replica on the other node")
    assert infer(registry.ready("kept")[0], "kept") == [3.0, 4.0]
    cluster_of_two.add(RayNodeSpec(lost, gpus=1, cpus=2, memory_mib=4000, gpu_model="T4", gpu_mib=16000))
    await registry.desire("more", wanted("more", artifact, gpu_milli=800))
    await until(lambda: node_of(registry, "more") == lost, "replica on the node that returned")
    await registry.desire("kept")
    await registry.desire("more")
    await until(lambda: not registry.endpoints, "everything removed")
    nodes, groups, actors = left_on(cluster_of_two.address)
    assert nodes == ["a", "b", "head"]
    assert len(groups) == 5, "a GPU and a CPU group each, the head without GPUs; none of the node that was lost"
    assert actors == []


async def test_a_host_lost_with_its_node_does_not_speak_against_its_version(
    registry: Registry, artifact: ArtifactRef, cluster_of_two: Any
) -> None:
    await registry.desire("blameless", wanted("blameless", artifact, gpu_milli=400))
    seen: set[str] = set()
    for _death in range(CRASHES - 1):
        await until(lambda: any(e.generation not in seen for e in registry.ready("blameless")), "process")
        seen.add(registry.ready("blameless")[0].generation)
        os.kill(pid_of(registry.ready("blameless")[0]), signal.SIGKILL)
    await until(lambda: any(e.generation not in seen for e in registry.ready("blameless")), "process")
    lost = node_of(registry, "blameless")
    cluster_of_two.kill(lost)
    await until(lambda: node_of(registry, "blameless") not in ("", lost), "replica on the other node")
    assert not any(replica.state == "failed" for replica in registry.replicas("blameless"))
    cluster_of_two.add(RayNodeSpec(lost, gpus=1, cpus=2, memory_mib=4000, gpu_model="T4", gpu_mib=16000))


async def test_a_drained_node_is_emptied_without_a_moment_unserved_and_takes_nothing(
    registry: Registry, operator: Operator, scheduler: Scheduler, artifact: ArtifactRef
) -> None:
    await registry.desire("one", wanted("one", artifact, gpu_milli=300))
    await registry.desire("two", wanted("two", artifact, gpu_milli=300))
    await until(lambda: registry.ready("one") and registry.ready("two"), "replicas")
    drained = node_of(registry, "one")
    gaps: list[str] = []

    def emptied() -> bool:
        gaps.extend(model for model in ("one", "two") if not registry.ready(model))
        left = scheduler.get("/v1/placements").json()["drained"]
        return left == {drained: {}} and all(node_of(registry, m) not in ("", drained) for m in ("one", "two"))

    await operator.drain(drained)
    await until(emptied, "drained node")
    assert gaps == []
    await registry.desire("three", wanted("three", artifact, gpu_milli=800))
    await until(lambda: [r.state for r in registry.replicas("three")] == ["pending"], "queued replica")
    await operator.drain()
    await until(lambda: node_of(registry, "three") == drained, "replica on the node that is open again")


async def test_a_drain_without_room_elsewhere_says_so_and_keeps_what_runs(
    registry: Registry, operator: Operator, scheduler: Scheduler, artifact: ArtifactRef
) -> None:
    await registry.desire("one", wanted("one", artifact, gpu_milli=600))
    await registry.desire("two", wanted("two", artifact, gpu_milli=600))
    await until(lambda: registry.ready("one") and registry.ready("two"), "replicas")
    before = {e.host_id for e in registry.endpoints.values()}
    drained = node_of(registry, "one")
    await operator.drain(drained)

    def told() -> bool:
        left = scheduler.get("/v1/placements").json()["drained"].get(drained, {})
        return len(left) == 1 and all("no room elsewhere" in why for why in left.values())

    await until(told, "reason")
    assert {e.host_id for e in registry.endpoints.values()} == before
    await registry.desire("two")
    await until(lambda: node_of(registry, "one") not in ("", drained), "move once there is room")


async def test_a_move_whose_new_host_cannot_load_keeps_the_old_one_serving(
    registry: Registry, operator: Operator, scheduler: Scheduler, artifact: ArtifactRef, cache_dir: Path
) -> None:
    await registry.desire("kept", wanted("kept", artifact, gpu_milli=300))
    await until(lambda: registry.ready("kept"), "replica")
    (old,) = registry.ready("kept")
    blob = cache_dir / "sha256" / artifact.digest.removeprefix("sha256:") / "blob"
    away = blob.with_name("away")
    blob.rename(away)
    try:
        await operator.drain(old.node)
        await until(lambda: 'moves_total{outcome="aborted"}' in scheduler.get("/metrics").text, "abort")
        assert infer(old, "kept") == [3.0, 4.0]
        assert [r.state for r in registry.replicas("kept") if r.host_id == old.host_id] == ["ready"]
    finally:
        away.rename(blob)
    await until(lambda: node_of(registry, "kept") not in ("", old.node), "move when it can load again")


async def test_a_scheduler_killed_in_the_middle_of_a_move_leaves_its_successor_to_end_it(
    registry: Registry, operator: Operator, scheduler: Scheduler, artifact: ArtifactRef
) -> None:
    await registry.desire("kept", wanted("kept", artifact, gpu_milli=300))
    await until(lambda: registry.ready("kept"), "replica")
    (old,) = registry.ready("kept")
    await operator.drain(old.node)
    await until(lambda: len(registry.replicas("kept")) == 2, "second place")
    scheduler.kill()
    scheduler.start()
    assert infer(old, "kept") == [3.0, 4.0]
    await until(lambda: node_of(registry, "kept") not in ("", old.node) and len(registry.endpoints) == 1, "moved")
    assert [r.state for r in registry.replicas("kept")] == ["ready"]
