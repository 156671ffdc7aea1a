"""A router in the test's own loop, and replica hosts that fail as they are told."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from moorage_common import api_keys
from moorage_common.bus import Bus
from moorage_common.contracts import host_frames, names
from moorage_common.contracts.endpoints import Endpoint, HeldVersion
from moorage_common.contracts.keys import KeyRecord, TenantLimits
from moorage_common.contracts.routes import Arm, Route, RouteVersion
from moorage_common.contracts.tensors import Signature, TensorSpec
from moorage_common.contracts.versioned import Versioned
from moorage_common.errors import MoorageError
from moorage_common.kv import BucketWriter
from moorage_common.testing.servers import free_port
from moorage_router.app import RouterApp
from moorage_router.auth import Credentials
from moorage_router.settings import RouterSettings

PEPPER = "pepper-of-the-tests"
SIGNATURE = Signature(
    inputs=[TensorSpec(name="x", datatype="FP32", shape=[-1, 2])],
    outputs=[TensorSpec(name="y", datatype="FP32", shape=[-1])],
)
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}]}).encode()


async def until(condition: Callable[[], Any], what: str = "it", timeout_s: float = 15.0) -> None:
    """Poll until `condition` holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come"
        await asyncio.sleep(0.01)


@dataclass
class Seen:
    """A request as a host got it."""

    path: str
    headers: dict[str, str]
    body: bytes


Behaviour = Callable[["FakeHost", Seen, asyncio.StreamWriter], Awaitable[bool]]
"""Answers by itself and returns True, or returns False for the plain answer."""


@dataclass
class FakeHost:
    """A replica host's HTTP side (contracts/host_calls.py), with faults on demand. It takes no frames."""

    host_id: str
    token: str = "token-1"
    generation: str = "generation-1"
    tenant: str = "demo"
    behaviour: Behaviour | None = None
    node: str = ""
    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=2**24)
        self.port = self._server.sockets[0].getsockname()[1]

    async def kill(self) -> None:
        """Close the listening socket and reset every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    def endpoint(self, *versions: int, model: str = "m", state: str = "ready") -> Endpoint:
        held = [HeldVersion.model_validate({"model": model, "version": v, "state": state}) for v in versions]
        return Endpoint(
            cluster="default", host_id=self.host_id, tenant=self.tenant, address=f"127.0.0.1:{self.port}",
            generation=self.generation, token=self.token, versions=held, node=self.node,
        )  # fmt: skip

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while (seen := await _read_request(reader)) is not None:
                if seen.path == host_frames.PATH:
                    await self._greet(seen, reader, writer)
                    continue
                self.seen.append(seen)
                if self.behaviour is None or not await self.behaviour(self, seen, writer):
                    await self._answer(seen, writer)
        self._writers.discard(writer)
        writer.close()

    async def _greet(self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A router asks for a link."""
        writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")

    async def _answer(self, seen: Seen, writer: asyncio.StreamWriter) -> None:
        if seen.headers.get("moorage-host-token") != self.token:
            body = b'{"error":"stale"}'
            writer.write(b"HTTP/1.1 401 Unauthorized\r\nmoorage-error: host_stale\r\n")
        else:
            _, _, _, model, _, version, _ = seen.path.split("/")
            body = json.dumps({"model_name": model, "model_version": version, "outputs": []}).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nmoorage-out-service-us: 120\r\nmoorage-out-rows: 1\r\nmoorage-out-state: ok\r\n"
            )
        writer.write(b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()


async def _read_request(reader: asyncio.StreamReader) -> Seen | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    lines = head.split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:] if line)}
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Seen(lines[0].split(" ")[1], headers, body)


class Desired:
    """The registry's and a scheduler's side of the bus: tables with one writer each."""

    def __init__(self, url: str) -> None:
        self.bus = Bus(url, "tests")
        self.entries: dict[str, dict[str, Versioned]] = {
            bucket: {}
            for bucket in (names.BUCKET_KEYS, names.BUCKET_LIMITS, names.BUCKET_ROUTES, names.BUCKET_ENDPOINTS)
        }
        self.writers = {bucket: self._writer(bucket) for bucket in self.entries}
        self._tasks: list[asyncio.Task[None]] = []

    def _writer(self, bucket: str) -> BucketWriter:
        async def source() -> dict[str, Versioned]:
            return self.entries[bucket]

        prefix = "default." if bucket == names.BUCKET_ENDPOINTS else ""
        return BucketWriter(self.bus, bucket, "default" if prefix else "registry", source, prefix)

    async def start(self) -> None:
        await self.bus.start()
        await self.bus.wait(10)
        await self.bus.ensure_stream(names.STREAM_USAGE, ["usage.>"], 3600)
        for bucket in self.entries:
            await self.bus.bucket(bucket)
        self._tasks = [asyncio.create_task(writer.run()) for writer in self.writers.values()]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.bus.close()

    async def put(self, bucket: str, key: str, value: Any | None) -> None:
        held = self.entries[bucket].get(key)
        dumped = None if value is None else value.model_dump(mode="json")
        entry = Versioned(epoch=1, version=held.version + 1 if held else 1, value=dumped)
        self.entries[bucket][key] = entry
        await self.writers[bucket].put(key, entry)

    async def key(self, tenant: str = "demo", scopes: tuple[str, ...] = ("infer:*",), **fields: Any) -> api_keys.ApiKey:
        key = api_keys.mint()
        await self.record(key, tenant=tenant, scopes=list(scopes), **fields)
        return key

    async def record(self, key: api_keys.ApiKey, **fields: Any) -> None:
        record = KeyRecord(kid=key.kid, digest=api_keys.digest(PEPPER, key.secret), **fields)
        await self.put(names.BUCKET_KEYS, key.kid, record)

    async def limits(self, tenant: str = "demo", **fields: Any) -> None:
        await self.put(names.BUCKET_LIMITS, tenant, TenantLimits(tenant=tenant, **fields))

    async def route(self, weights: dict[int, int], *, tenant: str = "demo", model: str = "m", **fields: Any) -> None:
        version_fields = fields.pop("version_fields", {})
        route = Route(
            tenant=tenant, model=model, revision=fields.pop("revision", 7),
            arms=[Arm(arm=f"v{v}", version=v, weight_bp=w) for v, w in weights.items() if w],
            versions=[
                RouteVersion(**{"version": v, "format": "onnx", "signature": SIGNATURE, **version_fields})
                for v in weights
            ],
            **fields,
        )  # fmt: skip
        await self.put(names.BUCKET_ROUTES, names.route_key(tenant, model), route)

    async def host(self, host: FakeHost, *versions: int, **fields: Any) -> None:
        key = names.endpoint_key("default", host.host_id)
        await self.put(names.BUCKET_ENDPOINTS, key, host.endpoint(*versions, **fields))


@dataclass
class RunningRouter:
    """A router that serves; `client` speaks to it."""

    app: RouterApp
    client: httpx.AsyncClient
    port: int

    async def infer(
        self, key: api_keys.ApiKey | str, path: str = "/v2/models/m/infer", **fields: Any
    ) -> httpx.Response:
        text = key if isinstance(key, str) else key.text
        headers = {"authorization": f"Bearer {text}", **fields.pop("headers", {})}
        return await self.client.post(path, headers=headers, content=fields.pop("content", BODY), **fields)

    async def burst(self, key: api_keys.ApiKey, count: int, callers: int) -> list[tuple[int, bytes]]:
        """Status and body of `count` inferences over `callers` connections."""
        head = f"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key.text}\r\n"
        request = f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY
        answers: list[tuple[int, bytes]] = []

        async def caller() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            for _ in range(count // callers):
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                answers.append((int(head[9:12]), await reader.readexactly(length)))
            writer.close()

        await asyncio.gather(*(caller() for _ in range(callers)))
        return answers

    async def get(self, path: str, key: api_keys.ApiKey | None = None) -> httpx.Response:
        return await self.client.get(path, headers={"authorization": f"Bearer {key.text}"} if key else {})

    async def knows(self, key: api_keys.ApiKey, *versions: int, model: str = "m") -> None:
        """Wait until the tables hold the key, the route and a ready host of each version."""
        deps = self.app.deps
        assert deps is not None

        def there() -> bool:
            try:
                _, route = deps.endpoints._gateway.authorize(Credentials(f"Bearer {key.text}".encode()), None, model)
            except MoorageError:
                return False
            return set(versions) <= {n for n, served in route.versions.items() if served.replicas.ready}

        await until(there, "the tables")


@contextlib.asynccontextmanager
async def serving(settings: RouterSettings) -> AsyncIterator[RunningRouter]:
    """Serve in this loop, as `__main__` does, without the operations port."""
    app = RouterApp(settings)
    stop = asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # uvloop, in __main__, does it
        port = listener.getsockname()[1]
        task = asyncio.create_task(app.run(listener, stop))
        try:
            await until(lambda: app.server is not None or task.done(), "the server")
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", timeout=60, limits=httpx.Limits()
            ) as client:
                yield RunningRouter(app, client, port)
        finally:
            stop.set()
            await task


class RouterProcess:
    """`python -m moorage_router` on a port."""

    def __init__(self, settings: RouterSettings, **more: str) -> None:
        self.port = free_port()
        self.environment = {
            **os.environ,
            "MOORAGE_PEPPER": PEPPER,
            "MOORAGE_REDIS_URL": settings.redis_url.get_secret_value(),
            "MOORAGE_NATS_URL": settings.nats_url.get_secret_value(),
            "MOORAGE_STATE_DIR": str(settings.state_dir),
            "MOORAGE_ROUTER_NAME": settings.router_name,
            "MOORAGE_PORT": str(self.port),
            **more,
        }
        self.log = settings.state_dir.parent / f"router-{self.port}.log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "moorage_router"], env=self.environment, stderr=out, stdout=out
            )

    async def infer(self, key: object, client: httpx.AsyncClient) -> int:
        try:
            answer = await client.post(
                f"http://127.0.0.1:{self.port}/v2/models/m/infer",
                content=BODY,
                headers={"authorization": f"Bearer {key.text}"},
            )
        except httpx.TransportError:
            return 0
        return answer.status_code

    async def answers(self, key: object, client: httpx.AsyncClient) -> None:
        deadline = time.monotonic() + 30
        while await self.infer(key, client) != 200:
            assert time.monotonic() < deadline, self.log.read_text()
            await asyncio.sleep(0.05)

    def end(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        self.process.wait(15)
