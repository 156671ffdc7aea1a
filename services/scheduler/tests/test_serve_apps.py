"""Ray Serve applications as versions: run, healed, followed by restarted hosts, and ended with their hosts."""

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import ray
from scheduler_harness import (
    Registry,
    Scheduler,
    infer,
    pid_of,
    registry_on,
    scheduler_process,
    until,
    wanted,
)

from moorage_common.contracts.desired import ArtifactRef, DesiredVersion, Resources
from moorage_common.contracts.tensors import CODE_FORMATS
from moorage_runtime.projects import pack
from moorage_scheduler.cluster import NAMESPACE, Cluster
from moorage_scheduler.serve_room import HOST, Room, at_host, shortfall

PIPELINE = b"""
import numpy as np
from ray import serve
import doubling

@serve.deployment(ray_actor_options={"num_cpus": 0.05})
class Double:
    async def __call__(self, x):
        return doubling.double(x)

@serve.deployment(ray_actor_options={"num_cpus": 0.05})
class Ingress:
    def __init__(self, double):
        self.double = double

    async def __call__(self, inputs):
        return {"y": await self.double.remote(inputs["x"])}

app = Ingress.bind(Double.bind())
"""
FILES = {"pipeline.py": PIPELINE, "doubling.py": b"def double(x):\n    return x * 2\n"}

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # of Ray Serve, as it is imported

Cached = Callable[[bytes], ArtifactRef]


def test_an_application_waits_until_serve_has_room_for_it() -> None:
    room = Room(cpu_milli=1000, gpu_milli=1000)
    assert shortfall(Resources(cpu_milli=600), [], room) is None
    assert shortfall(Resources(cpu_milli=600), [Resources(cpu_milli=400)], room) is None
    reason = shortfall(Resources(cpu_milli=600), [Resources(cpu_milli=500)], room)
    assert reason is not None
    assert "0.6 CPU and Ray Serve has 1 in all, and not as much free now" in reason
    assert "MOORAGE_SERVE_CPUS" in reason
    reason = shortfall(Resources(cpu_milli=100, gpu_milli=1000, devices=2), [], room)
    assert reason is not None
    assert "2 GPU and Ray Serve has 1 in all;" in reason


def test_a_host_of_code_asks_its_node_for_little_and_others_for_all() -> None:
    asked = Resources(cpu_milli=4000, gpu_milli=500)
    assert at_host("onnx", asked) == asked
    assert [at_host(name, asked) for name in CODE_FORMATS] == [HOST]


def pipeline(model: str, artifact: ArtifactRef, **resources: int) -> DesiredVersion:
    asked = Resources.model_validate({"cpu_milli": 100, "host_mem_mib": 512, **resources})
    version = wanted(model, artifact)
    load = version.load.model_copy(update={"format": "ray-serve", "resources": asked})
    return version.model_copy(update={"load": load, "resources": asked})


@pytest.fixture(scope="module")
def scheduler(nats_url: str, ray_address: str, cache_dir: Path) -> Iterator[Scheduler]:
    scheduler = scheduler_process(nats_url, ray_address, cache_dir)
    scheduler.start()
    yield scheduler
    scheduler.kill()


@pytest.fixture
async def registry(nats_url: str, scheduler: Scheduler) -> AsyncIterator[Registry]:
    async with registry_on(nats_url) as registry:
        yield registry


def replicas(host_id: str) -> dict[str, str]:
    """Names of Serve's actors for the host's application, by deployment."""
    names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    mine = [name for name in names if name.startswith(f"SERVE_REPLICA::moorage.{host_id}#")]
    return {name.split("#")[1]: name for name in mine}


def serve_status(host_id: str) -> str:
    from ray import serve

    return str(serve.status().applications[f"moorage.{host_id}"].status.value)


@pytest.mark.cluster
@pytest.mark.timeout(300)
async def test_an_application_is_healed_reattached_and_ended_with_its_host(
    registry: Registry, scheduler: Scheduler, cached: Cached, cluster: Cluster
) -> None:
    await until(scheduler.ready, "ready scheduler")
    await registry.desire("pipe", pipeline("pipe", cached(pack("pipeline:app", FILES))))
    await until(lambda: registry.ready("pipe"), "ready pipeline")
    (before,) = registry.ready("pipe")
    assert infer(before, "pipe") == [3.0, 4.0]
    first = replicas(before.host_id)
    assert first.keys() == {"Ingress", "Double"}

    for name in first.values():  # all at once: nothing but the host keeps the project in Ray's store
        ray.kill(ray.get_actor(name, namespace="serve"))

    def back() -> bool:
        now = replicas(before.host_id)
        return now.keys() == first.keys() and not set(now.values()) & set(first.values())

    await until(back, "healed deployments")
    await until(lambda: serve_status(before.host_id) == "RUNNING", "running application")
    assert infer(before, "pipe") == [3.0, 4.0]

    healed = replicas(before.host_id)
    os.kill(pid_of(before), signal.SIGKILL)
    await until(lambda: [e for e in registry.ready("pipe") if e.generation != before.generation], "the host again")
    (again,) = registry.ready("pipe")
    assert again.host_id == before.host_id
    assert infer(again, "pipe") == [3.0, 4.0]
    assert replicas(again.host_id) == healed, "a restarted host finds its application running"

    ray.kill(ray.get_actor(again.host_id, namespace=NAMESPACE), no_restart=True)
    await until(lambda: not replicas(again.host_id), "end of the application of a host that is gone")
    await registry.desire("pipe")


@pytest.mark.cluster
@pytest.mark.timeout(300)
async def test_an_application_ends_with_its_deployment(
    registry: Registry, scheduler: Scheduler, cached: Cached, cluster: Cluster
) -> None:
    await until(scheduler.ready, "ready scheduler")
    await registry.desire("short", pipeline("short", cached(pack("pipeline:app", FILES))))
    await until(lambda: registry.ready("short"), "ready pipeline")
    (host,) = registry.ready("short")
    await registry.desire("short")
    await until(lambda: not registry.endpoints, "no endpoint")
    await until(lambda: not replicas(host.host_id), "end of the application")


@pytest.mark.cluster
@pytest.mark.timeout(300)
async def test_an_application_that_asks_for_too_much_is_refused_with_both_numbers(
    registry: Registry, scheduler: Scheduler, cached: Cached
) -> None:
    await until(scheduler.ready, "ready scheduler")
    artifact = cached(pack("pipeline:app", FILES))
    await registry.desire("greedy", pipeline("greedy", artifact, cpu_milli=50))
    text = "ask for 0.1 CPU where the version has 0.05"
    await until(
        lambda: any(r.state == "failed" and text in r.reason for r in registry.replicas("greedy")), "failed version"
    )

    await registry.desire("large", pipeline("large", artifact, cpu_milli=300))
    text = "0.3 CPU and Ray Serve has 0.2 in all"
    await until(
        lambda: any(r.state == "pending" and text in r.reason for r in registry.replicas("large")), "queued version"
    )
