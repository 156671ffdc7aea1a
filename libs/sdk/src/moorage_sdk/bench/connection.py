"""One kept HTTP/1.1 connection that asks one request after another: httptools' parser on an asyncio protocol.

httpx costs half a millisecond of this process's CPU a call, which at 32 connections would be what is measured.
"""

import asyncio
import ssl
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from moorage_common.contracts.host_calls import ERROR_CODE, REQUEST_ID
from moorage_sdk.transport import tls_context
from moorage_sdk.wire import Call, Service, retry_after_s


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect, and the bytes to send each time."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    request: bytes

    @classmethod
    def of(cls, service: Service, call: Call) -> "Target":
        """The call as it goes over the wire, authenticated as `service` says."""
        url = urlsplit(service.base_url)
        is_tls = url.scheme == "https"
        headers = {
            "host": url.netloc.rpartition("@")[2],
            "authorization": f"Bearer {service.api_key}",
            "user-agent": "moorage-bench",
            **call.headers,
            "content-length": str(len(call.body)),
        }
        lines = [f"{call.method} {url.path}{call.path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
        return cls(
            host=url.hostname or "",
            port=url.port or (443 if is_tls else 80),
            tls=tls_context() if is_tls else None,
            request="\r\n".join([*lines, "", ""]).encode() + call.body,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer, its body read and thrown away.

    Attributes:
        code: the platform's error code, empty for a success.
        version: by the request id; `unknown` where there is none.
    """

    status: int
    code: str
    version: str
    retry_after_s: float | None


def version_of(request_id: str) -> str:
    """The version that a `Moorage-Request-Id` names."""
    parts = request_id.split(".")
    return parts[2] if len(parts) == 6 else "unknown"


class Connection(asyncio.Protocol):
    """Made by `connect`; one `ask` at a time."""

    def __init__(self) -> None:
        self._parser: Any = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Outcome] | None = None
        self._found: dict[bytes, bytes] = {}
        self._begun = False

    @classmethod
    async def connect(cls, target: Target) -> "Connection":
        """Raises OSError."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, target.host, target.port, ssl=target.tls)
        return connection

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes) -> Outcome:
        """Send `request` and read the whole answer. Raises ConnectionError."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiting

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.close()
            self._fail(ConnectionError(f"the answer is not HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(ConnectionResetError("the connection was closed without an answer"))

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)

    # httptools

    def on_message_begin(self) -> None:
        self._found.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._found[name.lower()] = value

    def on_message_complete(self) -> None:
        status = int(self._parser.get_status_code())
        if status < 200:
            return
        if not self._parser.should_keep_alive():
            self.close()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(self._outcome(status))

    def _outcome(self, status: int) -> Outcome:
        version = version_of(self._found.get(REQUEST_ID.encode(), b"").decode("latin-1"))
        if status == 200:
            return Outcome(status, "", version, None)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in self._found.items()}
        return Outcome(status, headers.get(ERROR_CODE, ""), version, retry_after_s(headers))
