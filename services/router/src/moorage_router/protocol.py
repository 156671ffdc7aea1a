"""uvicorn's HTTP protocol, with two things changed: fewer system calls, and refusals in the protocol's own shape."""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol


class GatheredTransport:
    """Gathers what is written in one turn of the loop into one system call: uvicorn writes head and body apart."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if parts:
            self._transport.write(b"".join(parts))


class RouterProtocol(HttpToolsProtocol):
    """Content-Length with Transfer-Encoding, two Content-Lengths and the like end the connection with 400."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast("asyncio.Transport", GatheredTransport(transport, self.loop)))

    def send_400_response(self, msg: str) -> None:
        body = b'{"error":"this is not a valid HTTP request; check its framing headers"}'
        head = b"content-type: application/json\r\nmoorage-error: bad_http\r\ncontent-length: %d\r\n" % len(body)
        self.transport.write(STATUS_LINE[400] + head + b"connection: close\r\n\r\n" + body)
        self.transport.close()
