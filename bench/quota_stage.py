"""What bench/quota.py drives: tables on a real bus, a host that answers at once, routers, and an open-loop load."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import httpx

from moorage_common import api_keys
from moorage_common.bus import Bus
from moorage_common.contracts import names
from moorage_common.contracts.endpoints import Endpoint, HeldVersion
from moorage_common.contracts.keys import KeyRecord, Rate, TenantLimits
from moorage_common.contracts.model import Contract
from moorage_common.contracts.routes import Arm, Route, RouteVersion
from moorage_common.contracts.tensors import Signature, TensorSpec
from moorage_common.contracts.versioned import Versioned
from moorage_common.kv import BucketWriter

PEPPER = "pepper-of-the-benchmark"
TENANT, MODEL = "bench", "m"
_BODY = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1.0]}]}'
_ANSWER = b'{"model_name":"m","model_version":"1","outputs":[]}'


@contextlib.asynccontextmanager
async def tables(nats_url: str, limits: TenantLimits, host_port: int, rate: Rate | None) -> AsyncIterator[str]:
    """What registry and scheduler would have told routers; the text of a key, which has `rate`."""
    key = api_keys.mint()
    tensor = TensorSpec(name="x", datatype="FP32", shape=[-1])
    version = RouteVersion(version=1, format="onnx", signature=Signature(inputs=[tensor], outputs=[tensor]))
    arms = [Arm(arm="v1", version=1, weight_bp=10_000)]
    held = [HeldVersion.model_validate({"model": MODEL, "version": 1, "state": "ready"})]
    digest = api_keys.digest(PEPPER, key.secret)
    entries: list[tuple[str, str, str, Contract]] = [
        (names.BUCKET_KEYS, "registry", key.kid,
         KeyRecord(kid=key.kid, tenant=TENANT, digest=digest, scopes=["infer:*"], rate=rate)),
        (names.BUCKET_LIMITS, "registry", TENANT, limits),
        (names.BUCKET_ROUTES, "registry", names.route_key(TENANT, MODEL),
         Route(tenant=TENANT, model=MODEL, revision=1, arms=arms, versions=[version])),
        (names.BUCKET_ENDPOINTS, "default", names.endpoint_key("default", "host"),
         Endpoint(cluster="default", host_id="host", tenant=TENANT, address=f"127.0.0.1:{host_port}",
                  generation="g", token="t", versions=held)),
    ]  # fmt: skip
    bus = Bus(nats_url, "bench")
    await bus.start()
    await bus.wait(10)
    await bus.ensure_stream(names.STREAM_USAGE, ["usage.>"], 3600)
    writing = []
    for bucket, writer, name, value in entries:
        await bus.bucket(bucket)
        entry = Versioned(epoch=time.time_ns(), version=1, value=value.model_dump(mode="json"))
        writing.append(asyncio.create_task(_writer(bus, bucket, writer, {name: entry}).run()))
    yield key.text
    for task in writing:
        task.cancel()
    await asyncio.gather(*writing, return_exceptions=True)
    await bus.close()


def _writer(bus: Bus, bucket: str, writer: str, entries: dict[str, Versioned]) -> BucketWriter:
    async def source() -> dict[str, Versioned]:
        return entries

    return BucketWriter(bus, bucket, writer, source, "default." if bucket == names.BUCKET_ENDPOINTS else "")


class Host(asyncio.Protocol):
    """A replica that answers at once, over HTTP alone."""

    def __init__(self) -> None:
        self._held = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (length := _whole(self._held)) is not None:
            head, self._held = self._held[:length], self._held[length:]
            assert self._transport is not None
            if b"/infer " not in head.partition(b"\r\n")[0]:
                self._transport.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                continue
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nmoorage-out-service-us: 1\r\nmoorage-out-rows: 1\r\nmoorage-out-state: ok\r\n"
                b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_ANSWER), _ANSWER)
            )


def _whole(held: bytes) -> int | None:
    """Bytes of the first message, if all of it is there."""
    head, found, _ = held.partition(b"\r\n\r\n")
    if not found:
        return None
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    whole = len(head) + 4 + int(length or b"0")
    return whole if len(held) >= whole else None


@dataclass
class RouterProcess:
    """One of several routers; `notes` is where it leaves what its limiter did."""

    notes: Path
    port: int
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, number: int, directory: Path, nats_url: str, redis_url: str) -> "RouterProcess":
        listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        port, notes = listener.getsockname()[1], directory / f"router-{number}.notes"
        environment = {
            **os.environ, "MOORAGE_PEPPER": PEPPER, "MOORAGE_REDIS_URL": redis_url, "MOORAGE_NATS_URL": nats_url,
            "MOORAGE_STATE_DIR": str(directory / f"state-{number}"), "MOORAGE_ROUTER_NAME": f"router-{number}",
            "MOORAGE_LISTEN_FD": str(listener.fileno()), "QUOTA_NOTES": str(notes),
        }  # fmt: skip
        command = [sys.executable, str(Path(__file__).with_name("quota_router.py"))]
        with listener, notes.with_suffix(".log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, pass_fds=[listener.fileno()])
        return cls(notes, port, process)

    async def serves(self, key: str) -> None:
        """Wait until it answers the model's metadata, which counts against no limit."""
        ends = time.monotonic() + 60
        async with httpx.AsyncClient() as client:
            while time.monotonic() < ends and self.process.poll() is None:
                with contextlib.suppress(httpx.TransportError):
                    url = f"http://127.0.0.1:{self.port}/v2/models/{MODEL}/ready"
                    if (await client.get(url, headers={"authorization": f"Bearer {key}"})).status_code == 200:
                        return
                await asyncio.sleep(0.1)
        raise SystemExit(f"a router did not start:\n{self.notes.with_suffix('.log').read_text()[-2000:]}")

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)


@dataclass
class Load:
    """Requests sent at fixed times over connections kept open, whatever became of earlier ones.

    Attributes:
        statuses: how many answers of each status; 0 for a connection that broke.
        late: requests that could not be sent, since too many were unanswered.
    """

    key: str
    statuses: dict[int, int] = field(default_factory=dict)
    late: int = 0

    async def run(self, ports: Sequence[int], shares: Sequence[float], per_second: float, seconds: float) -> None:
        """Split over the routers by `shares`."""
        fronts = [_Front(self, port) for port in ports]
        total, started, sent = sum(shares), time.monotonic(), [0] * len(ports)
        while (now := time.monotonic() - started) < seconds:
            for index, (front, share) in enumerate(zip(fronts, shares, strict=True)):
                while sent[index] < now * per_second * share / total:
                    sent[index] += 1
                    front.ask()
            await asyncio.sleep(0.001)
        await asyncio.sleep(1)
        for front in fronts:
            front.close()


class _Front:
    """The connections to one router."""

    MOST = 256

    def __init__(self, load: Load, port: int) -> None:
        self.load, self.port = load, port
        self.free: list[_Connection] = []
        self.all: set[_Connection] = set()
        self.request = (
            f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {load.key}\r\n"
            f"Content-Length: {len(_BODY)}\r\n\r\n"
        ).encode() + _BODY
        self.opening: set[asyncio.Task[None]] = set()

    def ask(self) -> None:
        if self.free:
            self.free.pop().ask()
        elif len(self.all) + len(self.opening) < self.MOST:
            task = asyncio.create_task(self._open())
            self.opening.add(task)
            task.add_done_callback(self.opening.discard)
        else:
            self.load.late += 1

    def count(self, status: int) -> None:
        self.load.statuses[status] = self.load.statuses.get(status, 0) + 1

    async def _open(self) -> None:
        try:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self.port)
        except OSError:
            self.count(0)
            return
        connection.ask()

    def close(self) -> None:
        for connection in list(self.all):
            connection.close()


class _Connection(asyncio.Protocol):
    def __init__(self, front: _Front) -> None:
        self._front, self._held, self._asked = front, b"", False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._front.all.add(self)

    def ask(self) -> None:
        assert self._transport is not None
        self._asked = True
        self._transport.write(self._front.request)

    def data_received(self, data: bytes) -> None:
        self._held += data
        length = _whole(self._held)
        if length is not None:
            self._front.count(int(self._held[9:12]))
            self._held, self._asked = self._held[length:], False
            self._front.free.append(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self._front.all.discard(self)
        if self in self._front.free:
            self._front.free.remove(self)
        if self._asked:
            self._front.count(0)

    def close(self) -> None:
        if self._transport is not None:
            self._asked = False
            self._transport.close()
