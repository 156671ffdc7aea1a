"""A replica host that takes frames (contracts/host_frames.py), with faults on demand."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx
from router_harness import Desired, FakeHost, RunningRouter, Seen, until

from moorage_common.contracts import host_frames
from moorage_common.contracts.host_frames import Answer, Call, Frames
from moorage_router.replicas import Host

ACCEPTED = (
    f"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {host_frames.PROTOCOL}\r\n\r\n".encode()
)
STALE = b"HTTP/1.1 401 Unauthorized\r\nmoorage-error: host_stale\r\ncontent-length: 0\r\n\r\n"
JSON = b"content-type: application/json\r\n"

OnCall = Callable[["FramedHost", Call, asyncio.StreamWriter], Awaitable[bool]]
"""Answers a call by itself and returns True, or returns False for the plain answer."""


def plain(call: Call, **changes: object) -> Answer:
    """An answer that says which body it is of."""
    body = json.dumps({"model_name": "m", "of": call.body.decode("latin-1")}).encode()
    return Answer(call.id, 200, 120, 4, 1, 0, JSON, body)._replace(**changes)


def send(writer: asyncio.StreamWriter, answer: Answer) -> None:
    writer.write(host_frames.encode_answer(answer))


@dataclass
class FramedHost(FakeHost):
    """`behaviour` is for what comes over HTTP, `on_call` for what comes in frames.

    Attributes:
        greeting: in place of the upgrade; empty to say nothing.
        greeted: how many times a router asked for a link.
        writers: of the links that are open.
    """

    greeting: bytes = ACCEPTED
    on_call: OnCall | None = None
    greeted: int = 0
    calls: list[Call] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def pause(self) -> None:
        """Read nothing from the links that are open."""
        for writer in self.writers:
            writer.transport.pause_reading()

    def resume(self) -> None:
        for writer in self.writers:
            writer.transport.resume_reading()

    def drop_links(self) -> None:
        for writer in self.writers:
            writer.transport.abort()

    async def _greet(self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.greeted += 1
        if seen.headers["moorage-host-token"] != self.token:
            writer.write(STALE)
            return
        writer.write(self.greeting)
        if not self.greeting.startswith(b"HTTP/1.1 101"):
            return
        self.writers.append(writer)
        tasks: dict[int, asyncio.Task[None]] = {}
        try:
            await self._take(reader, writer, tasks)
        finally:
            self.writers.remove(writer)
            for task in tasks.values():
                task.cancel()

    async def _take(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tasks: dict[int, asyncio.Task[None]]
    ) -> None:
        frames = Frames()
        while data := await reader.read(2**16):
            for frame in frames.feed(data):
                if isinstance(frame, Call):
                    self.calls.append(frame)
                    tasks[frame.id] = asyncio.create_task(self._answer_call(frame, writer))
                elif isinstance(frame, int):
                    self.cancelled.append(frame)
                    tasks[frame].cancel()

    async def _answer_call(self, call: Call, writer: asyncio.StreamWriter) -> None:
        if self.on_call is None or not await self.on_call(self, call, writer):
            send(writer, plain(call))


async def never(_host: FramedHost, _call: Call, _writer: asyncio.StreamWriter) -> bool:
    await asyncio.Event().wait()
    return True


async def lose(_host: FramedHost, _call: Call, writer: asyncio.StreamWriter) -> bool:
    writer.transport.abort()
    return True


async def one_version(router: RunningRouter, desired: Desired, *hosts: FakeHost, **fields: object) -> object:
    """A key for version 1 of m, held by `hosts`."""
    key = await desired.key()
    await desired.limits(requests_per_s=100_000, burst=100_000, max_concurrent=1000)
    await desired.route({1: 10_000}, **fields)
    for host in hosts:
        await desired.host(host, 1)
    await router.knows(key, 1)
    await until(lambda: len(known(router)) == len(hosts), "all hosts")
    await until(lambda: router.app.deps.limits.tenants["demo"].limits.max_concurrent == 1000, "the limits")
    return key


def known(router: RunningRouter) -> tuple[Host, ...]:
    """The hosts that the router calls."""
    return router.app.deps.routes.find("demo", "m").versions[1].replicas.ready


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.headers.get("moorage-error", "")


CODE = {"version_fields": {"format": "ray-serve"}}
"""A route whose calls are made once."""
