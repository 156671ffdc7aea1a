"""Two scheduler processes on one Ray cluster: one leads, and what it leaves undone is neither doubled nor leaked."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import ray
from ray.util.placement_group import placement_group_table
from scheduler_harness import Registry, Scheduler, pid_of, registry_on, scheduler_process, until, wanted

from moorage_common.contracts.desired import ArtifactRef
from moorage_common.testing.servers import Server
from moorage_local.ray_nodes import RayNodeSpec
from moorage_scheduler.cluster import ADOPT_TIMEOUT_S, NAMESPACE, Cluster, NotLeading, Placed, RayNode
from moorage_scheduler.hosts import Fleet, Start
from moorage_scheduler.metrics import SchedulerMetrics

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

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

    version = wanted("many", artifact, replicas=REPLICAS)
    await registry.desire("many", version, wanted("many", artifact, version=2, replicas=2, gpu_milli=250))
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
    await registry.desire("kept", wanted("kept", artifact))
    await until(lambda: registry.ready("kept"), "replica")
    other.start()
    await until(other.ready, "standby")
    assert leader.process is not None
    leader.process.send_signal(signal.SIGSTOP)
    await until(lambda: role(other) == "leader" and other.ready(), "takeover")
    await registry.desire("kept", wanted("kept", artifact, replicas=3))
    await until(lambda: len(registry.ready("kept")) == 3, "more replicas, of the new leader")
    leader.process.send_signal(signal.SIGCONT)
    assert await asyncio.to_thread(leader.process.wait, 30) == 1
    assert role(other) == "leader"
    assert set(named("kept")) == {endpoint.host_id for endpoint in registry.ready("kept")}
    assert len(named("kept")) == 3


async def test_what_sat_on_a_lost_node_is_removed_at_a_takeover_and_not_waited_for(
    ray_machines: Any, cluster: Cluster, record_property: Recorder
) -> None:
    ray_machines.add(RayNodeSpec("lost", gpus=1, cpus=1))
    lost = next(node for node in await cluster.nodes() if node.size.name == "lost")
    await cluster.ensure_groups(lost)
    pids = []
    for one in (placed("gpu", lost), placed("cpu", lost).model_copy(update={"devices": []})):
        await cluster.start(one, lost.ray_id, len(one.devices) / 2, "{}")
        pids.append((await cluster.call(one.host_id, "identity", timeout_s=60))["pid"])
    ray_machines.kill("lost")
    killed_at = time.monotonic()
    await until(lambda: not any(map(psutil.pid_exists, pids)), "end of what ran on it")
    assert await Cluster(cluster.address, cluster.host_class).running() == []
    took_s = time.monotonic() - killed_at
    record_property("lost_node_s", round(took_s, 2))
    assert took_s < ADOPT_TIMEOUT_S - 3
    assert not {"gpu.m.1.0", "cpu.m.1.0"} & set(ray.util.list_named_actors())
    await cluster.remove_groups_except({node.ray_id for node in await cluster.nodes()})


async def test_a_warm_host_that_ray_started_anew_holds_no_gpu_after_a_takeover(cluster: Cluster, node: RayNode) -> None:
    warm = placed("warm", node).model_copy(update={"purpose": "warm", "devices": []})
    await cluster.start(warm, node.ray_id, 0.0, "{}")
    reservation = f"{warm.host_id}#0"
    await cluster._reserved(reservation, node.ray_id, 0, 0.5)
    (left,) = await Cluster(cluster.address, cluster.host_class).running()
    assert left.host_id == warm.host_id
    assert reservation not in ray.util.list_named_actors()


async def test_a_node_that_offers_nothing_gets_no_groups(ray_machines: Any, cluster: Cluster) -> None:
    """Such as the head of a KubeRay cluster, and the raylet beside a scheduler in Kubernetes."""
    ray_machines.add(RayNodeSpec("empty", gpus=0, cpus=0))
    empty = next(node for node in await cluster.nodes() if node.size.name == "empty")
    await cluster.ensure_groups(empty)
    assert not [e for e in placement_group_table().values() if e["name"].endswith(empty.ray_id)]
    ray_machines.kill("empty")
    await until(lambda: sum(node["Alive"] for node in ray.nodes()) == 1, "end of the node")


def named(model: str) -> list[str]:
    """Actors of a model's hosts."""
    names = [
        entry["name"] for entry in ray.util.list_named_actors(all_namespaces=True) if entry["namespace"] == NAMESPACE
    ]
    return [name for name in names if name.split(".")[1] == model]


async def test_with_the_bus_away_a_leader_follows_what_runs_and_goes_on_under_its_number_when_it_is_back(
    own_nats: Server, cluster: Cluster, cache_dir: Path, artifact: ArtifactRef
) -> None:
    scheduler = scheduler_process(own_nats.url, cluster.address, cache_dir)
    scheduler.start()
    try:
        await until(lambda: answers(scheduler) and leads(scheduler), "leader")
        fencing = scheduler.get("/v1/placements").json()["fencing"]
        async with registry_on(own_nats.url) as registry:
            await registry.desire("kept", wanted("kept", artifact, gpu_milli=500))
            await until(lambda: registry.ready("kept"), "replica")
            own_nats.kill()
            await until(lambda: not leads(scheduler), "a lease that has run out")
            (host_id,) = named("kept")
            os.kill(pid_of(registry.ready("kept")[0]), signal.SIGKILL)
            own_nats.start()
            await until(lambda: leads(scheduler), "the lease again")
            await registry.desire("kept", wanted("kept", artifact, replicas=2, gpu_milli=500))
            await until(lambda: len(registry.ready("kept")) == 2, "another replica")
            assert host_id in named("kept"), "restarted by Ray where it was"
            assert scheduler.get("/v1/placements").json()["fencing"] == fencing
    finally:
        scheduler.kill()


async def test_what_an_earlier_leader_started_too_late_to_be_adopted_is_told_from_what_a_later_one_did(
    cluster: Cluster, node: RayNode, ray_address: str
) -> None:
    cluster.epoch = 20
    await cluster.start(placed("mine", node), node.ray_id, 0.25, "{}")
    late, later = (Cluster(ray_address, cluster.host_class, epoch=epoch) for epoch in (10, 30))
    for other, name in ((late, "late"), (later, "later")):
        await other.ensure_groups(node)
        await other.start(placed(name, node), node.ray_id, 0.25, "{}")
        await other.call(f"{name}.m.1.0", "placed", timeout_s=60)
    assert await cluster.strangers() == {"late.m.1.0": 10, "later.m.1.0": 30}
    await cluster.remove("late.m.1.0")
    found = await late.running()
    assert {one.host_id: one.epoch for one in found} == {"mine.m.1.0": 20, "later.m.1.0": 30}
    assert late.found_epoch == 30


async def test_nothing_is_changed_by_a_process_that_may_not_act_and_no_version_is_blamed(
    cluster: Cluster, node: RayNode
) -> None:
    acts = [True]
    cluster.may_act = lambda: acts[0]
    await cluster.start(placed("kept", node), node.ray_id, 0.25, "{}")
    await cluster.call("kept.m.1.0", "placed", timeout_s=60)
    acts[0] = False
    for change in (
        cluster.start(placed("more", node), node.ray_id, 0.25, "{}"),
        cluster.remove("kept.m.1.0"),
        cluster.remove_groups_except([]),
    ):
        with pytest.raises(NotLeading):
            await change
    fleet = Fleet(cluster, SchedulerMetrics(), lambda _host: None)
    fleet.start(Start(placed("more", node), node.ray_id, 0.25, "{}"))
    await until(lambda: not fleet.hosts, "a start taken back")
    await fleet.close()
    acts[0] = True
    assert fleet.failures == {}
    assert list(await cluster.strangers()) == ["kept.m.1.0"], "its removal is made up for by the sweep"
    assert [one.host_id for one in await cluster.running()] == ["kept.m.1.0"]


def placed(name: str, node: RayNode) -> Placed:
    return Placed(
        host_id=f"{name}.m.1.0", tenant=name, model="m", version=1, purpose="replica", node=node.size.name,
        node_id=node.ray_id, devices=[0], asked={}, started_at=0.0,
    )  # fmt: skip


def answers(scheduler: Scheduler) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return scheduler.get("/healthz").status_code == 200
    return False


def leads(scheduler: Scheduler) -> bool:
    return "moorage_scheduler_leader 1.0" in scheduler.get("/metrics").text
