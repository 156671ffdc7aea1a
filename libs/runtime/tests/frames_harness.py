"""A router's end of a link to a real host, and a host whose model answers when it is told."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from moorage_common.contracts import host_calls, host_frames
from moorage_common.contracts.desired import ArtifactRef, LoadSpec
from moorage_common.contracts.host_frames import Answer, Call, Frames
from moorage_common.contracts.tensors import Signature, TensorSpec
from moorage_common.errors import BadRequest
from moorage_runtime.batching import Batcher
from moorage_runtime.calls import Calls
from moorage_runtime.inference import Inference
from moorage_runtime.limits import Limits
from moorage_runtime.server import HostApp, HostServer
from moorage_runtime.v2 import Array
from moorage_runtime.versions import Served, Versions

TRACE = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"
PATH = "/v2/models/m/versions/1/infer"
HEAD = f"POST {PATH} HTTP/1.1\r\naccept: */*\r\n".encode()
SIGNATURE = Signature(
    inputs=[TensorSpec(name="x", datatype="FP64", shape=[-1])],
    outputs=[TensorSpec(name="y", datatype="FP64", shape=[-1])],
)


async def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come"
        await asyncio.sleep(0.005)


def body(*values: float) -> bytes:
    return orjson.dumps({"inputs": [{"name": "x", "datatype": "FP64", "shape": [len(values)], "data": values}]})


def values(answer: Answer) -> list[float]:
    assert answer.status == 200, answer
    return list(orjson.loads(answer.body)["outputs"][0]["data"])


@dataclass
class Peer:
    """A link as a router has it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    _frames: Frames = field(default_factory=Frames)
    _came: list[Answer] = field(default_factory=list)

    def send(self, *frames: Call | int) -> None:
        self.writer.write(
            b"".join(
                [host_frames.encode_cancel(f) if isinstance(f, int) else host_frames.encode_call(f) for f in frames]
            )
        )

    def call(self, call_id: int, sent: bytes, *, left_ms: int = 20_000, head: bytes = HEAD) -> None:
        self.send(Call(call_id, left_ms, TRACE, head, sent))

    async def answer(self) -> Answer:
        """The next answer. Raises EOFError when the link ends first."""
        async with asyncio.timeout(15):
            while not self._came:
                data = await self.reader.read(2**16)
                if not data:
                    raise EOFError
                for frame in self._frames.feed(data):
                    assert isinstance(frame, Answer)
                    self._came.append(frame)
        return self._came.pop(0)

    async def answers(self, count: int) -> dict[int, Answer]:
        found = [await self.answer() for _ in range(count)]
        assert len({answer.id for answer in found}) == count
        return {answer.id: answer for answer in found}

    async def ended(self) -> bytes:
        """What still comes until the host closes."""
        async with asyncio.timeout(15):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


async def hello(address: str, **headers: str) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask for a link; the first line of the answer."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    fields = {"host": address, "connection": "upgrade", "upgrade": host_frames.PROTOCOL, **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    writer.write(f"GET {host_frames.PATH} HTTP/1.1\r\n{lines}\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    return head.partition(b"\r\n")[0], reader, writer


@contextlib.asynccontextmanager
async def linked(address: str, token: str, tenant: str = "demo") -> AsyncIterator[Peer]:
    line, reader, writer = await hello(address, **{host_calls.TOKEN: token, host_calls.TENANT: tenant})
    assert line == b"HTTP/1.1 101 Switching Protocols"
    try:
        yield Peer(reader, writer)
    finally:
        writer.transport.abort()


class Doubles:
    """Answers 2x while `gate` is open; refuses 13."""

    def __init__(self) -> None:
        self.calls: list[list[float]] = []
        self.gate = threading.Event()
        self.gate.set()

    def predict(self, inputs: dict[str, Array], wanted: Collection[str]) -> dict[str, Array]:
        x = inputs["x"]
        self.calls.append(x.tolist())
        assert self.gate.wait(30)
        if (x == 13).any():
            raise BadRequest("13 is refused")
        return {"y": x * 2}


class _OneVersion(Versions):
    """Version 1 of m, made on the spot."""

    def __init__(self, served: Served, cache: Any) -> None:
        super().__init__("demo", cache)
        self._served = served

    def serving(self, model: str, version: int) -> Served:
        return self._served if (model, version) == ("m", 1) else super().serving(model, version)


class GatedHost:
    """A host's door before a Doubles. `batchable` ones take what waits together."""

    def __init__(self, cache: Any = None, **limits: Any) -> None:
        self.model = Doubles()
        self.batcher = Batcher(
            self.model, batchable=True, max_batch=64, name="gated", limits=Limits(**limits), inline_s=0
        )
        ref = ArtifactRef(digest="sha256:" + "0" * 64, size_bytes=1, url="http://127.0.0.1:9/")
        spec = LoadSpec.model_validate(
            {"tenant": "demo", "model": "m", "version": 1, "format": "onnx", "artifact": ref, "signature": SIGNATURE}
        )
        inference = Inference(_OneVersion(Served(spec, self.batcher), cache), Limits(**limits))
        self.app = HostApp(Calls(inference, 10**6), tenant="demo", token="token", max_body_bytes=10**6)
        self.server = HostServer(self.app, "127.0.0.1")
        self.server.start()
        self._stopping: asyncio.Task[None] | None = None

    @property
    def calls(self) -> int:
        """Calls of all links that are not answered."""
        return sum(link.calls for link in list(self.app.links))

    def link(self) -> contextlib.AbstractAsyncContextManager[Peer]:
        return linked(self.server.address, "token")

    async def busy(self, peer: Peer, *waiting: int) -> None:
        """Call 1 runs in the model, which answers once the gate opens; those of `waiting` wait behind it."""
        self.model.gate.clear()
        peer.call(1, body(1))
        await until(lambda: self.model.calls, "the first call")
        for call_id in waiting:
            peer.call(call_id, body(call_id))
        await until(lambda: self.batcher.waiting == 1 + len(waiting), "the calls")

    def stop(self) -> "asyncio.Task[None]":
        """Stop as an actor does; once."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(asyncio.to_thread(self.server.stop))
        return self._stopping

    async def close(self) -> None:
        self.model.gate.set()
        await self.stop()
        self.batcher.close()


def np_body(rows: Array) -> bytes:
    """Rows for an input called `input`, as JSON."""
    tensor = {"name": "input", "datatype": "FP64", "shape": list(rows.shape), "data": np.ravel(rows).tolist()}
    return orjson.dumps({"inputs": [tensor]})
