"""The scheduler as a process, with real NATS, Ray and replica hosts."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from moorage_common.bus import Bus
from moorage_common.contracts import host_calls
from moorage_common.contracts.desired import (
    ArtifactRef,
    Desired,
    DesiredVersion,
    LoadSpec,
    ReplicaStatus,
    Resources,
    Status,
    ValidationRun,
)
from moorage_common.contracts.endpoints import Endpoint
from moorage_common.contracts.load import LoadReport, VersionLoad
from moorage_common.contracts.names import BUCKET_DESIRED, BUCKET_ENDPOINTS, BUCKET_STATUS, desired_key, load_subject
from moorage_common.contracts.tensors import Signature, TensorSpec
from moorage_common.contracts.versioned import Versioned
from moorage_common.kv import BucketReader, BucketWriter
from moorage_common.testing.servers import free_port
from moorage_common.tied import tied

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CLUSTER = "test"
TENANT = "acme"
DEADLINE_S = 120.0

Recorder = Callable[[str, object], None]
Cached = Callable[[bytes], ArtifactRef]


@dataclass
class Scheduler:
    """The process and where it answers."""

    environment: dict[str, str]
    ops: str
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(tied([sys.executable, "-m", "moorage_scheduler"]), env=self.environment)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=20)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.ops + path, timeout=10, trust_env=False)

    def ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self.get("/readyz").status_code == 200
        return False

    def placed(self) -> float:
        """How many replicas it has placed."""
        lines = self.get("/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith("moorage_scheduler_placements_total ")).split()[1])


@pytest.fixture(scope="module")
def scheduler(nats_url: str, ray_address: str, cache_dir: Path) -> Iterator[Scheduler]:
    port = free_port()
    environment = os.environ | {
        "MOORAGE_CLUSTER": CLUSTER,
        "MOORAGE_NATS_URL": nats_url,
        "MOORAGE_RAY_ADDRESS": ray_address,
        "MOORAGE_CACHE_DIR": str(cache_dir),
        "MOORAGE_OPS_PORT": str(port),
    }
    scheduler = Scheduler(environment, f"http://127.0.0.1:{port}")
    scheduler.start()
    yield scheduler
    scheduler.kill()


@dataclass
class Registry:
    """What a registry writes and what everyone reads."""

    entries: dict[str, Versioned] = field(default_factory=dict)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    statuses: dict[str, Status] = field(default_factory=dict)
    orders: dict[str, tuple[int, int]] = field(default_factory=dict)
    writer: BucketWriter | None = None

    async def source(self) -> Mapping[str, Versioned]:
        return self.entries

    async def desire(
        self, model: str, *versions: DesiredVersion, validations: list[ValidationRun] | None = None
    ) -> None:
        """Write what is desired of `model`; nothing at all means it is deleted."""
        value = Desired(
            cluster=CLUSTER, tenant=TENANT, model=model, versions=list(versions), validations=validations or []
        )
        gone = not versions and not validations
        entry = Versioned(epoch=1, version=time.time_ns(), value=None if gone else value.model_dump(mode="json"))
        key = desired_key(CLUSTER, TENANT, model)
        self.entries[key] = entry
        assert self.writer is not None
        assert await self.writer.put(key, entry)

    def on_endpoint(self, key: str, entry: Versioned) -> None:
        self.orders[key] = entry.order
        if entry.value is None:
            self.endpoints.pop(key, None)
        else:
            self.endpoints[key] = Endpoint.model_validate(entry.value)

    def on_status(self, key: str, entry: Versioned) -> None:
        if entry.value is None:
            self.statuses.pop(key, None)
        else:
            self.statuses[key] = Status.model_validate(entry.value)

    def replicas(self, model: str) -> list[ReplicaStatus]:
        status = self.statuses.get(desired_key(CLUSTER, TENANT, model))
        return status.replicas if status is not None else []

    def ready(self, model: str, version: int = 1) -> list[Endpoint]:
        """Endpoints that answer for a version."""
        return [
            endpoint
            for endpoint in self.endpoints.values()
            if any((v.model, v.version, v.state) == (model, version, "ready") for v in endpoint.versions)
        ]


@pytest.fixture
async def registry(nats_url: str, scheduler: Scheduler) -> AsyncIterator[Registry]:
    """A registry of this test; what the test desired is deleted and gone when it ends."""
    registry, bus = Registry(), Bus(nats_url, "registry")
    await bus.start()
    await bus.wait(30)
    registry.writer = BucketWriter(bus, BUCKET_DESIRED, "registry", registry.source)
    readers = [
        BucketReader(bus, BUCKET_ENDPOINTS, registry.on_endpoint),
        BucketReader(bus, BUCKET_STATUS, registry.on_status),
    ]
    tasks = [asyncio.create_task(work) for work in (registry.writer.run(), *(reader.run() for reader in readers))]
    try:
        yield registry
        for key in list(registry.entries):
            await registry.desire(key.rsplit(".", 1)[1])
        await until(lambda: not registry.endpoints and not registry.statuses, "everything removed")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await bus.close()


async def until(condition: Callable[[], object], what: str, timeout_s: float = DEADLINE_S) -> float:
    """Poll until `condition` holds; the seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, f"no {what} within {timeout_s} s"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


SIGNATURE = Signature(
    inputs=[TensorSpec(name="x", datatype="FP32", shape=[-1, 2])],
    outputs=[TensorSpec(name="y", datatype="FP32", shape=[-1, 2])],
)


def wanted(
    model: str, artifact: ArtifactRef, *, version: int = 1, replicas: int = 1, **resources: Any
) -> DesiredVersion:
    return DesiredVersion(
        load=LoadSpec(
            tenant=TENANT, model=model, version=version, format="onnx", artifact=artifact, signature=SIGNATURE
        ),
        resources=Resources.model_validate({"cpu_milli": 50, "host_mem_mib": 64, **resources}),
        min_replicas=replicas,
        max_replicas=replicas,
    )


def infer(endpoint: Endpoint, model: str, version: int = 1) -> list[float]:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2.0]}]}
    answer = httpx.post(
        f"http://{endpoint.address}/v2/models/{model}/versions/{version}/infer",
        json=body,
        headers={host_calls.TOKEN: endpoint.token, host_calls.TENANT: TENANT},
        timeout=20,
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text
    data: list[float] = answer.json()["outputs"][0]["data"]
    return data


def pid_of(endpoint: Endpoint) -> int:
    """Of the process that listens at the endpoint."""
    port = int(endpoint.address.rsplit(":", 1)[1])
    listening = [c for c in psutil.net_connections("tcp4") if c.status == psutil.CONN_LISTEN and c.laddr]
    return next(c.pid for c in listening if tuple(c.laddr)[1:] == (port,) and c.pid is not None)


async def test_a_killed_host_is_back_on_its_gpu(
    registry: Registry, scheduler: Scheduler, artifact: ArtifactRef, record_property: Recorder
) -> None:
    await until(scheduler.ready, "ready scheduler")
    await registry.desire("twice", wanted("twice", artifact, replicas=2, gpu_milli=500))
    record_property("start_s", await until(lambda: len(registry.ready("twice")) == 2, "two ready replicas"))
    first, second = registry.ready("twice")
    assert {*first.devices, *second.devices} == {0, 1}, "replicas of one deployment share no device where avoidable"
    assert infer(first, "twice") == [3.0, 4.0]

    os.kill(pid_of(first), signal.SIGKILL)
    withdrawn_s = await until(lambda: first not in registry.endpoints.values(), "withdrawn endpoint")
    record_property("withdrawn_s", withdrawn_s)
    record_property("recovery_s", await until(lambda: len(registry.ready("twice")) == 2, "the host again"))
    again = next(e for e in registry.ready("twice") if e.host_id == first.host_id)
    assert again.devices == first.devices
    assert again.generation != first.generation
    assert infer(again, "twice") == [3.0, 4.0]
    await until(lambda: {r.host_id: r.restarts for r in registry.replicas("twice")}[first.host_id] == 1, "count")
    assert "moorage_scheduler_recovery_seconds_count 1.0" in scheduler.get("/metrics").text


async def test_a_killed_scheduler_adopts_what_runs_and_goes_on_caring_for_it(
    registry: Registry, scheduler: Scheduler, artifact: ArtifactRef, record_property: Recorder
) -> None:
    await registry.desire("kept", wanted("kept", artifact, gpu_milli=500))
    await until(lambda: registry.ready("kept"), "ready replica")
    (before,) = registry.ready("kept")
    (order,) = [order for key, order in registry.orders.items() if key.endswith(before.host_id)]
    scheduler.kill()
    assert infer(before, "kept") == [3.0, 4.0], "hosts go on without a scheduler"

    scheduler.start()
    taken_over_s = await until(
        lambda: registry.orders[f"{CLUSTER}.{before.host_id}"] > order, "endpoint of the new scheduler"
    )
    record_property("scheduler_back_s", taken_over_s)
    await until(scheduler.ready, "ready scheduler")
    assert registry.ready("kept") == [before]
    devices = [device for node in scheduler.get("/v1/placements").json()["nodes"] for device in node["devices"]]
    assert [replica["host_id"] for device in devices for replica in device["replicas"]] == [before.host_id]
    assert sorted(device["milli_free"] for device in devices) == [500, 1000]

    os.kill(pid_of(before), signal.SIGKILL)

    def again() -> list[Endpoint]:
        return [e for e in registry.ready("kept") if e.generation != before.generation]

    await until(again, "restart of an adopted host")
    assert [(e.host_id, e.devices) for e in again()] == [(before.host_id, before.devices)]


async def test_load_reported_by_routers_adds_replicas_up_to_the_maximum(
    registry: Registry, nats_url: str, artifact: ArtifactRef
) -> None:
    version = wanted("busy", artifact, gpu_milli=100).model_copy(update={"max_replicas": 2, "target_in_flight": 4})
    await registry.desire("busy", version)
    await until(lambda: len(registry.ready("busy")) == 1, "one replica")
    load = VersionLoad(tenant=TENANT, model="busy", version=1, in_flight=30)
    bus = Bus(nats_url, "router-0")
    await bus.start()
    await bus.wait(30)
    began = time.monotonic()
    while len(registry.ready("busy")) < 2:
        assert time.monotonic() - began < DEADLINE_S
        report = LoadReport(router="router-0", boot="b", at=time.time(), loads=[load])
        await bus.client.publish(load_subject("router-0"), report.model_dump_json().encode())
        await asyncio.sleep(0.2)
    await bus.close()
    assert len(registry.replicas("busy")) == 2


async def test_other_resources_replace_a_replica_without_a_gap(registry: Registry, artifact: ArtifactRef) -> None:
    await registry.desire("moved", wanted("moved", artifact, gpu_milli=100))
    await until(lambda: registry.ready("moved"), "replica")
    (old,) = registry.ready("moved")
    await registry.desire("moved", wanted("moved", artifact, gpu_milli=400))
    gaps: list[bool] = []

    def replaced() -> bool:
        gaps.append(not registry.ready("moved"))
        return [r.gpu_milli for r in registry.replicas("moved")] == [400] and old not in registry.endpoints.values()

    await until(replaced, "replacement")
    assert not any(gaps)


async def test_what_does_not_fit_waits_with_a_reason_and_starts_when_there_is_room(
    registry: Registry, scheduler: Scheduler, artifact: ArtifactRef
) -> None:
    await registry.desire("large", wanted("large", artifact, gpu_milli=1000, devices=2))
    await until(lambda: registry.ready("large"), "replica of two devices")
    assert registry.ready("large")[0].devices == [0, 1]
    await registry.desire("late", wanted("late", artifact, gpu_milli=250))
    await until(lambda: [r.state for r in registry.replicas("late")] == ["pending"], "queued replica")
    assert "250 milli" in registry.replicas("late")[0].reason
    assert "moorage_scheduler_queued 1.0" in scheduler.get("/metrics").text
    await registry.desire("large")
    await until(lambda: registry.ready("late"), "start after room")


async def test_removed_versions_drain_before_they_stop(registry: Registry, artifact: ArtifactRef) -> None:
    await registry.desire("gone", wanted("gone", artifact))
    await until(lambda: registry.ready("gone"), "replica without GPU")
    (endpoint,) = registry.ready("gone")
    assert endpoint.devices == []
    await registry.desire("gone")
    await until(lambda: not registry.ready("gone"), "draining endpoint")
    (leaving,) = registry.endpoints.values()
    assert [v.state for v in leaving.versions] == ["draining"]
    assert infer(endpoint, "gone") == [3.0, 4.0], "it answers while routers leave"
    await until(lambda: not registry.endpoints, "removal")


async def test_a_version_that_cannot_load_fails_with_its_reason_and_is_not_tried_again(
    registry: Registry, scheduler: Scheduler, cached: Cached, artifact: ArtifactRef
) -> None:
    broken = cached(b"not a network")
    await registry.desire("broken", wanted("broken", broken, gpu_milli=100))
    await until(lambda: [r.state for r in registry.replicas("broken")] == ["failed"], "failure")
    (failed,) = registry.replicas("broken")
    assert failed.reason
    await until(lambda: "failed to load" in logged(registry, "broken"), "the host's last log lines")
    before = scheduler.placed()
    await until(lambda: not registry.endpoints, "host removed")
    await registry.desire("other", wanted("other", artifact))
    await until(lambda: registry.ready("other"), "another model unharmed")
    assert scheduler.placed() == before + 1


def logged(registry: Registry, model: str) -> str:
    return "\n".join(registry.statuses[desired_key(CLUSTER, TENANT, model)].log_lines)


async def test_a_version_whose_host_dies_three_times_without_lasting_fails(
    registry: Registry, artifact: ArtifactRef
) -> None:
    await registry.desire("fragile", wanted("fragile", artifact, gpu_milli=100))
    seen: set[str] = set()
    for _death in range(3):
        await until(lambda: any(e.generation not in seen for e in registry.ready("fragile")), "process")
        (endpoint,) = registry.ready("fragile")
        seen.add(endpoint.generation)
        os.kill(pid_of(endpoint), signal.SIGKILL)
    await until(lambda: [r.state for r in registry.replicas("fragile")] == ["failed"], "given up")
    (failed,) = registry.replicas("fragile")
    assert "died 3 times in a row" in failed.reason


async def test_a_version_is_validated_on_a_warm_host_until_nobody_asks(
    registry: Registry, cached: Cached, artifact: ArtifactRef, record_property: Recorder
) -> None:
    load = wanted("checked", artifact).load
    await registry.desire("checked", validations=[ValidationRun(run_id="one", load=load)])
    first_s = await until(lambda: results(registry, "checked") == {"one": "unchecked"}, "validation")
    broken = wanted("checked", cached(b"neither"), version=2).load
    runs = [ValidationRun(run_id="two", load=load), ValidationRun(run_id="three", load=broken)]
    await registry.desire("checked", validations=runs)
    warm_s = await until(lambda: results(registry, "checked") == {"two": "unchecked", "three": "rejected"}, "more")
    record_property("validation_s", first_s)
    record_property("two_warm_validations_s", warm_s)
    status = registry.statuses[desired_key(CLUSTER, TENANT, "checked")]
    assert all(result.reason for result in status.validations if result.state == "rejected")
    assert not registry.endpoints, "a validation host serves nobody"


def results(registry: Registry, model: str) -> dict[str, str]:
    status = registry.statuses.get(desired_key(CLUSTER, TENANT, model))
    return {r.run_id: r.state for r in status.validations} if status is not None else {}
