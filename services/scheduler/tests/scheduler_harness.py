"""A scheduler as a process, and a registry's side of the bus, for tests with real NATS and Ray."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

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
from moorage_common.contracts.names import BUCKET_DESIRED, BUCKET_ENDPOINTS, BUCKET_STATUS, desired_key
from moorage_common.contracts.tensors import Signature, TensorSpec
from moorage_common.contracts.versioned import Versioned
from moorage_common.kv import BucketReader, BucketWriter
from moorage_common.testing.servers import free_port
from moorage_common.tied import tied

CLUSTER = "test"
TENANT = "acme"
DEADLINE_S = 120.0


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


def scheduler_process(nats_url: str, ray_address: str, cache_dir: Path, **settings: object) -> Scheduler:
    """Not started yet. It keeps no warm hosts unless `settings` say so."""
    port = free_port()
    environment = os.environ | {
        "MOORAGE_CLUSTER": CLUSTER,
        "MOORAGE_NATS_URL": nats_url,
        "MOORAGE_RAY_ADDRESS": ray_address,
        "MOORAGE_CACHE_DIR": str(cache_dir),
        "MOORAGE_OPS_PORT": str(port),
        "MOORAGE_WARM_MOST": "0",
        **{f"MOORAGE_{name.upper()}": str(value) for name, value in settings.items()},
    }
    return Scheduler(environment, f"http://127.0.0.1:{port}")


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
        await self.writer.bus.wait(20)
        # What a bus that is just back does not take yet, the writer's own round puts within a second.
        await self.writer.put(key, entry)

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


@contextlib.asynccontextmanager
async def registry_on(nats_url: str) -> AsyncIterator[Registry]:
    """A registry; what was desired of it is deleted and gone when it ends."""
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
