"""A server with an echoing handler, and raw connections to it."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from moorage_common.http1 import Exchange, Handler, Limits, Server


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"


@dataclass
class Peer:
    """A raw connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, *, head_only: bool = False) -> Answer:
        """The next answer. Raises IncompleteReadError when the connection ends first."""
        async with asyncio.timeout(10):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines[1:] if line)
            if headers.get("transfer-encoding") == "chunked":
                parts = []
                while size := int(await self.reader.readline(), 16):
                    parts.append((await self.reader.readexactly(size + 2))[:-2])
                await self.reader.readline()
                body = b"".join(parts)
            else:
                body = b"" if head_only else await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(int(lines[0].split(" ")[1]), headers, body)

    async def ended(self) -> bytes:
        """What still comes until the other side closes."""
        async with asyncio.timeout(10):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""


@dataclass
class Running:
    """A server on loopback. `seen` has what handlers were given, `cancelled` counts those that were cancelled."""

    server: Server
    port: int
    seen: list[tuple[str, str, bytes]] = field(default_factory=list)
    cancelled: int = 0
    _peers: list[Peer] = field(default_factory=list)

    async def connect(self) -> Peer:
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self.port))
        self._peers.append(peer)
        return peer

    async def ask(self, data: bytes) -> Answer:
        """Send bytes on a connection of their own; its first answer."""
        peer = await self.connect()
        peer.send(data)
        return await peer.answer()

    def close(self) -> None:
        for peer in self._peers:
            peer.writer.transport.abort()


@contextlib.asynccontextmanager
async def running(handler: Handler | None = None, **limits: Any) -> AsyncIterator[Running]:
    """A server whose handler, unless given, answers with method, path and the body's length."""
    found: Running

    async def echo(exchange: Exchange) -> None:
        body = exchange.body
        if body is None:
            body = b""
            while (part := await exchange.next_part()) is not None:
                body += part
        found.seen.append((exchange.head.method.decode(), exchange.head.path.decode(), body))
        exchange.respond(200, b"content-type: application/json\r\n", json.dumps({"bytes": len(body)}).encode())

    async def counted(exchange: Exchange) -> None:
        try:
            await (handler or echo)(exchange)
        except asyncio.CancelledError:
            found.cancelled += 1
            raise

    server = Server(counted, Limits(**limits))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = Running(server, listener.getsockname()[1])
        await server.start(listener)
        try:
            yield found
        finally:
            found.close()
            await server.stop()


def post(body: bytes = b"", path: str = "/", **more: str) -> bytes:
    fields = {"Host": "h", "Content-Length": str(len(body)), **{k.replace("_", "-"): v for k, v in more.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


async def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come"
        await asyncio.sleep(0.005)
