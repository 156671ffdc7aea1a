"""What the architecture relies on Ray for (decision 2), on a real cluster of two logical GPUs."""

import asyncio
import os
import signal
import time
from typing import Any

import pytest
import ray

from moorage_scheduler.cluster import Cluster, ClusterUnreachable, HostGone, Placed, RayNode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def placed(host_id: str, node: RayNode, *devices: int) -> Placed:
    return Placed(
        host_id=host_id,
        tenant="acme",
        model="m",
        version=1,
        purpose="replica",
        node=node.size.name,
        devices=list(devices),
        asked={},
        started_at=time.time(),
    )


async def start(cluster: Cluster, node: RayNode, host_id: str, fraction: float, *devices: int) -> dict[str, Any]:
    await cluster.start(placed(host_id, node, *devices), node.ray_id, fraction, "{}")
    answer: dict[str, Any] = await cluster.call(host_id, "identity", timeout_s=90)
    return answer


async def test_a_fraction_gets_the_gpu_of_its_bundle_and_keeps_it_when_killed(cluster: Cluster, node: RayNode) -> None:
    first = await start(cluster, node, "acme.m.1.a", 0.5, 1)
    second = await start(cluster, node, "acme.m.1.b", 0.25, 1)
    other = await start(cluster, node, "acme.m.1.c", 0.25, 0)
    assert first["devices"] == second["devices"]
    assert len({first["devices"][0], other["devices"][0]}) == 2
    os.kill(first["pid"], signal.SIGKILL)
    again = await cluster.call("acme.m.1.a", "identity", timeout_s=90)
    assert again["pid"] != first["pid"]
    assert again["devices"] == first["devices"]
    assert again["visible"] == first["visible"] == str(first["devices"][0])


async def test_an_overfull_bundle_waits_and_never_spills_to_its_sibling(cluster: Cluster, node: RayNode) -> None:
    await start(cluster, node, "acme.m.1.a", 0.75, 0)
    await cluster.start(placed("acme.m.1.b", node, 0), node.ray_id, 0.5, "{}")
    with pytest.raises(ClusterUnreachable):
        await cluster.call("acme.m.1.b", "identity", timeout_s=6)
    await cluster.remove("acme.m.1.a")
    freed = await cluster.call("acme.m.1.b", "identity", timeout_s=90)
    assert freed["devices"]


async def test_a_replica_of_two_devices_sees_both_and_nobody_else_gets_them(cluster: Cluster, node: RayNode) -> None:
    whole = await start(cluster, node, "acme.m.1.a", 1.0, 0, 1)
    assert whole["devices"] == [0, 1]
    assert whole["visible"] == "0,1"
    await cluster.start(placed("acme.m.1.b", node, 1), node.ray_id, 0.1, "{}")
    with pytest.raises(ClusterUnreachable):
        await cluster.call("acme.m.1.b", "identity", timeout_s=4)
    os.kill(whole["pid"], signal.SIGKILL)
    again = await cluster.call("acme.m.1.a", "identity", timeout_s=90)
    assert again["visible"] == "0,1"
    await cluster.remove("acme.m.1.a")
    assert (await cluster.call("acme.m.1.b", "identity", timeout_s=90))["devices"]


async def test_a_replica_without_gpu_sees_none_and_two_share_the_cpu_bundle(cluster: Cluster, node: RayNode) -> None:
    both = await asyncio.gather(start(cluster, node, "acme.m.1.a", 0.0), start(cluster, node, "acme.m.1.b", 0.0))
    assert [one["devices"] for one in both] == [[], []]
    assert [one["visible"] for one in both] == ["", ""]


async def test_what_runs_says_how_it_was_placed_and_orphaned_reservations_go(cluster: Cluster, node: RayNode) -> None:
    await start(cluster, node, "acme.m.1.a", 0.5, 1)
    await start(cluster, node, "acme.m.1.b", 1.0, 0)
    await cluster.ask_ray(lambda: cluster._kill("acme.m.1.b"))
    (left,) = await cluster.running()
    assert (left.host_id, left.devices, left.node) == ("acme.m.1.a", [1], node.size.name)


async def test_a_removed_host_is_gone_for_good_and_its_name_is_free(cluster: Cluster, node: RayNode) -> None:
    await start(cluster, node, "acme.m.1.a", 1.0, 0)
    await cluster.remove("acme.m.1.a")
    with pytest.raises(HostGone):
        await cluster.call("acme.m.1.a", "identity", timeout_s=20)
    assert await start(cluster, node, "acme.m.1.b", 1.0, 0)


@pytest.mark.filterwarnings("ignore")  # Ray Serve's own, of pydantic and asyncio
async def test_a_serve_application_answers_beside_the_groups(cluster: Cluster, node: RayNode) -> None:
    await start(cluster, node, "acme.m.1.a", 1.0, 0)
    assert await asyncio.to_thread(_serve_doubles, 21) == 42


def _serve_doubles(number: int) -> int:
    from ray import serve

    @serve.deployment(ray_actor_options={"num_cpus": 0.1, "num_gpus": 0})
    class Doubler:
        def __call__(self, value: int) -> int:
            return value * 2

    try:
        handle = serve.run(Doubler.bind(), name="pipeline", route_prefix=None)  # type: ignore[attr-defined]
        answer: int = handle.remote(number).result(timeout_s=90)
        return answer
    finally:
        serve.shutdown()
        assert ray.is_initialized()
