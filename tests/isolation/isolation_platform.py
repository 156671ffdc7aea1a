"""The platform's processes without Ray: the scheduler and the replica host are played in the test's own loop."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from moorage_common import api_keys
from moorage_common.bus import Bus
from moorage_common.contracts import host_frames
from moorage_common.contracts.desired import Desired, ReplicaStatus, Status, ValidationResult
from moorage_common.contracts.endpoints import Endpoint, HeldVersion
from moorage_common.contracts.names import BUCKET_DESIRED, BUCKET_ENDPOINTS, BUCKET_STATUS, TenantId
from moorage_common.contracts.versioned import Versioned
from moorage_common.kv import BucketReader, BucketWriter
from moorage_common.testing.servers import free_port
from moorage_common.tied import tied
from moorage_registry.testing import TENANT_SCOPES, Caller, eventually

PEPPER = "pepper-of-the-tests"
SCOPES = [*TENANT_SCOPES, "feedback:*", "features:read", "features:write"]
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.0, 2.0, 3.0, 4.0]}]})

Note = Callable[[str, object], None]
"""Takes a measurement's name and value, for the summary at the end."""


@dataclass
class Part:
    """One process of the platform; `kill` is SIGKILL, and `start` runs it again on the same ports and data."""

    module: str
    environment: Mapping[str, str]
    log: Path
    port: int = field(default_factory=free_port)
    ops_port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Until it is ready."""
        self._spawn()
        await eventually(self._is_ready, 90)

    @property
    def is_up(self) -> bool:
        return self._process is not None

    def _spawn(self) -> None:
        own = {"PORT": str(self.port), "OPS_PORT": str(self.ops_port), "LOG_FORMAT": "json", "LOG_LEVEL": "debug"}
        given = {f"MOORAGE_{name}": value for name, value in {**self.environment, **own}.items()}
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MOORAGE_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                tied([sys.executable, "-m", self.module]), env={**clean, **given}, stdout=log, stderr=log
            )

    async def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()[-4000:]
        try:
            async with httpx.AsyncClient(trust_env=False) as http:
                return (await http.get(f"http://127.0.0.1:{self.ops_port}/readyz")).status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@dataclass
class Cluster:
    """A scheduler that has everything wanted run at once, on one host a tenant that answers whatever it is asked.

    A host's answer holds the tenant's name, so that one that went astray is seen.
    """

    bus: Bus
    desired: BucketReader = field(init=False)
    logs: dict[str, list[str]] = field(default_factory=dict)
    """By tenant: lines that its hosts are said to have logged."""
    _status: BucketWriter = field(init=False)
    _endpoints: BucketWriter = field(init=False)
    _wanted: dict[str, Desired] = field(default_factory=dict)
    _revision: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _port: int = 0

    def __post_init__(self) -> None:
        self.desired = BucketReader(self.bus, BUCKET_DESIRED, self._note)
        self._status = BucketWriter(self.bus, BUCKET_STATUS, "default", self._statuses, prefix="default.")
        self._endpoints = BucketWriter(self.bus, BUCKET_ENDPOINTS, "default", self._hosts, prefix="default.")

    def _note(self, key: str, entry: Versioned) -> None:
        cluster, tenant, model = key.split(".")
        nothing = Desired(cluster=cluster, tenant=tenant, model=model)
        self._wanted[key] = nothing if entry.value is None else Desired.model_validate(entry.value)
        self._changed.set()

    def runs(self, tenant: str) -> bool:
        """Whether any version of the tenant is wanted."""
        return any(wanted.tenant == tenant and wanted.versions for wanted in self._wanted.values())

    async def _statuses(self) -> dict[str, Versioned]:
        return {key: self._entry(self._report(wanted)) for key, wanted in self._wanted.items()}

    async def _hosts(self) -> dict[str, Versioned]:
        found = {}
        for tenant in {wanted.tenant for wanted in self._wanted.values()}:
            versions = [
                HeldVersion(model=wanted.model, version=one.load.version, state="ready")
                for wanted in self._wanted.values()
                if wanted.tenant == tenant
                for one in wanted.versions
            ]
            endpoint = Endpoint(
                cluster="default", host_id=f"host-{tenant}", tenant=tenant, address=f"127.0.0.1:{self._port}",
                generation="1", token=tenant, versions=versions,
            )  # fmt: skip
            found[f"default.host-{tenant}"] = self._entry(endpoint)
        return found

    def _entry(self, value: Any) -> Versioned:
        return Versioned(epoch=1, version=self._revision, value=value.model_dump(mode="json"))

    def _report(self, wanted: Desired) -> Status:
        replicas = [
            ReplicaStatus(host_id=f"host-{wanted.tenant}", version=one.load.version, state="ready", node="node-1")
            for one in wanted.versions
        ]
        results = [
            ValidationResult(run_id=run.run_id, version=run.load.version, state="passed") for run in wanted.validations
        ]
        lines = self.logs.get(wanted.tenant, [])
        return Status(
            cluster="default", tenant=wanted.tenant, model=wanted.model, replicas=replicas, validations=results,
            log_lines=lines,
        )  # fmt: skip

    async def _tell(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._revision += 1
            for writer, source in ((self._status, self._statuses), (self._endpoints, self._hosts)):
                for key, entry in (await source()).items():
                    await writer.put(key, entry)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A replica host's HTTP side, which takes no frames."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                lines = head.split("\r\n")
                fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
                await reader.readexactly(int(fields.get("content-length", "0")))
                path = lines[0].split(" ")[1]
                if path == host_frames.PATH:
                    writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                    continue
                output = {"name": "y", "datatype": "INT64", "shape": [1], "data": [1]}
                told = {"model_name": path.split("/")[3], "model_version": path.split("/")[5], "outputs": [output]}
                body = json.dumps({**told, "parameters": {"tenant": fields["moorage-tenant"]}}).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\nmoorage-out-service-us: 120\r\nmoorage-out-rows: 1\r\n"
                    b"moorage-out-state: ok\r\n"
                    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
                )
                await writer.drain()
        writer.close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        works: list[Callable[[], Awaitable[None]]] = [
            self.desired.run, self._status.run, self._endpoints.run, self._tell,
        ]  # fmt: skip
        tasks = [asyncio.ensure_future(work()) for work in works]
        try:
            yield
        finally:
            while pending := [task for task in tasks if not task.done()]:
                for task in pending:
                    task.cancel()
                await asyncio.wait(pending, timeout=0.25)
            server.close()


@dataclass
class Parts:
    """All processes, and an operator who calls the registry."""

    registry: Part
    routers: list[Part]
    features: Part
    cluster: Cluster
    operator: Caller

    @property
    def processes(self) -> list[Part]:
        return [self.registry, *self.routers, self.features]

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls, folder: Path, nats_url: str, redis_url: str, database_url: str, *, routers: int
    ) -> AsyncIterator[Self]:
        """Start them and wait until all are ready."""
        admin_key = api_keys.mint().text
        shared = {"NATS_URL": nats_url, "REDIS_URL": redis_url, "PEPPER": PEPPER}
        features = Part(
            "moorage_feature_proxy", {**shared, "STATE_DIR": str(folder / "features")}, folder / "features.log"
        )
        registry = Part("moorage_registry", {}, folder / "registry.log")
        registry.environment = {
            **shared, "DATABASE_URL": database_url, "ARTIFACT_DIR": str(folder / "artifacts"),
            "PUBLIC_URL": registry.url, "FEATURE_PROXY_URL": features.url, "BOOTSTRAP_ADMIN_KEY": admin_key,
        }  # fmt: skip
        doors = []
        for number in range(routers):
            name = f"router-{number}"
            own = {"STATE_DIR": str(folder / name), "ROUTER_NAME": name, "FEATURE_PROXY_URL": features.url}
            doors.append(Part("moorage_router", {**shared, **own}, folder / f"{name}.log"))
        bus = Bus(nats_url, "cluster-of-the-test")
        async with httpx.AsyncClient(base_url=registry.url, timeout=30, trust_env=False) as http:
            cluster = Cluster(bus)
            found = cls(registry, doors, features, cluster, Caller(http, TenantId("platform"), admin_key))
            try:
                await bus.start()
                await bus.wait(10)
                async with cluster.running():
                    await registry.start()
                    await asyncio.gather(*(part.start() for part in (*doors, features)))
                    yield found
            finally:
                for part in found.processes:
                    part.kill()
                await bus.close()

    async def tenant(self, name: str) -> Caller:
        """A new tenant, with a key that may do everything a tenant may."""
        await self.operator.ok("POST", "/v1/tenants", json={"name": name})
        created = await self.operator.ok("POST", "/v1/keys", json={"scopes": SCOPES}, headers={"moorage-tenant": name})
        return Caller(self.operator.http, TenantId(name), created["key"])

    async def deploy(self, caller: Caller, model: str, content: bytes) -> None:
        """A version that serves."""
        version = (await caller.push(model, content))["version"]

        async def is_ready() -> bool:
            return (await caller.ok("GET", f"/v1/models/{model}/versions/{version}"))["state"] == "ready"

        await eventually(is_ready)
        await caller.ok("PUT", f"/v1/deployments/{model}", json={"versions": [{"version": version}]})

    async def infer(self, router: Part, http: httpx.AsyncClient, caller: Caller, model: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {caller.key}", "content-type": "application/json"}
        return await http.post(f"{router.url}/v2/models/{model}/infer", content=BODY, headers=headers)
