"""A link: many small calls at once over one connection to a replica host, as frames (contracts/host_frames.py).

A connection for each call costs a write and a read of the kernel on both sides for each request and each answer; over a
link, what one turn of the event loop has to say goes out together.
"""

import asyncio
import itertools
import time
from typing import cast

from moorage_common.contracts import host_frames
from moorage_common.contracts.host_frames import Answer, BadFrame, Frames
from moorage_router.pool import CONNECT_TIMEOUT_S
from moorage_router.upstream import AnswerLost, ConnectFailed, Overdue, UpstreamError

_HELLO = f"GET {host_frames.PATH} HTTP/1.1\r\nconnection: upgrade\r\nupgrade: {host_frames.PROTOCOL}\r\n".encode()
_ACCEPTED = b"HTTP/1.1 101 "
_RENEW_S = 1.0
"""Not more often is a silent host connected to anew."""


class NotSpoken(Exception):
    """The host does not take frames: it is to be called over HTTP."""


class _Pending:
    __slots__ = ("answer", "deadline", "since")

    def __init__(self, answer: "asyncio.Future[Answer]", since: float, deadline: float) -> None:
        self.answer = answer
        self.since = since
        self.deadline = deadline


class Link:
    """Calls to one generation of a host. It connects with its first call, and anew when the connection broke."""

    def __init__(self, address: str, headers: bytes) -> None:
        """`headers` are the lines that prove the router to the host."""
        self._address = address
        self._hello = b"%b%b\r\n" % (_HELLO, headers)
        self._spoken = True
        self._closed = False
        self._wire: _Wire | None = None
        self._wires: list[_Wire] = []
        self._renewed_at = 0.0
        self._connecting: asyncio.Task[_Wire] | None = None

    async def call(self, head: bytes, traceparent: bytes, body: bytes, deadline: float) -> Answer:
        """One call and its answer. Cancelled, it ends the host's work.

        Args:
            deadline: monotonic seconds.

        Raises:
            NotSpoken, ConnectFailed, AnswerLost, Overdue.
        """
        wire = self._wire
        if wire is None or not wire.is_open:
            wire = await self._open(deadline)
        return await wire.call(head, traceparent, body, deadline)

    async def _open(self, deadline: float) -> "_Wire":
        if not self._spoken:
            raise NotSpoken
        if self._closed:
            raise ConnectFailed(f"{self._address}: closed")
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect(), name="link-connect")
            self._connecting.add_done_callback(self._connected)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await asyncio.shield(self._connecting)
        except TimeoutError as error:
            raise Overdue("no connection in time") from error

    async def _connect(self) -> "_Wire":
        host, _, port = self._address.rpartition(":")
        loop = asyncio.get_running_loop()
        wire = _Wire(self._hello)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await loop.create_connection(lambda: wire, host.strip("[]"), int(port))
                self._spoken = await wire.accepted
            if not self._spoken:
                raise NotSpoken
            if self._closed:
                raise ConnectFailed(f"{self._address}: closed")
        except (OSError, UnicodeError) as error:  # TimeoutError is an OSError; a name that is none is a UnicodeError
            wire.close()
            raise ConnectFailed(f"{self._address}: {str(error) or 'no connection in time'}") from error
        except BaseException:
            wire.close()
            raise
        self._wire = wire
        self._wires.append(wire)
        return wire

    def _connected(self, task: "asyncio.Task[_Wire]") -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()

    def sweep(self, now: float) -> None:
        """End overdue calls; called every 50 ms.

        A host that was silent for all the time of an overdue call may have vanished without a word: further calls go
        over a connection of their own, whose failure tells. Those under way keep theirs.
        """
        if not self._wires:
            return
        for wire in self._wires:
            is_silent = wire.sweep(now)
            if is_silent and wire is self._wire and now - self._renewed_at > _RENEW_S:
                self._renewed_at = now
                wire.close()
        self._wires = [wire for wire in self._wires if not wire.is_lost]

    @property
    def empty(self) -> bool:
        """Nothing is under way."""
        return self._connecting is None and all(wire.is_lost for wire in self._wires)

    def close(self) -> None:
        """Take no more; the connection ends with the last answer."""
        self._closed = True
        for wire in self._wires:
            wire.close()


class _Wire(asyncio.Protocol):
    """The connection."""

    def __init__(self, hello: bytes) -> None:
        self._hello = hello
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._greeting: bytes | None = b""
        self._frames = Frames()
        self._ids = itertools.count(1)
        self._calls: dict[int, _Pending] = {}
        self._out: list[bytes] = []
        self._writable: asyncio.Future[None] | None = None
        self._closing = False
        self._heard_at = 0.0
        self.accepted: asyncio.Future[bool] = self._loop.create_future()

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._closing

    @property
    def is_lost(self) -> bool:
        return self._transport is None

    async def call(self, head: bytes, traceparent: bytes, body: bytes, deadline: float) -> Answer:
        if self._writable is not None:
            await self._until_writable(deadline)
        if self._transport is None:
            raise ConnectFailed("closed before the call")
        call_id = next(self._ids) & 0xFFFFFFFF
        answer: asyncio.Future[Answer] = self._loop.create_future()
        since = time.monotonic()
        self._calls[call_id] = _Pending(answer, since, deadline)
        left_ms = max(1, int((deadline - since) * 1000))
        self._send(host_frames.encode_call(host_frames.Call(call_id, left_ms, traceparent, head, body)))
        try:
            return await answer
        except (asyncio.CancelledError, Overdue):
            self._send(host_frames.encode_cancel(call_id))
            raise
        finally:
            self._calls.pop(call_id, None)
            if self._closing and not self._calls:
                self._end()

    async def _until_writable(self, deadline: float) -> None:
        """Wait for the host to read. Raises Overdue."""
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                while self._writable is not None:
                    await asyncio.shield(self._writable)  # others wait for it too
        except TimeoutError as error:
            raise Overdue("the host did not read in time") from error

    def _send(self, frame: bytes) -> None:
        out = self._out
        if not out:
            self._loop.call_soon(self._flush)
        out.append(frame)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self._transport is not None:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def sweep(self, now: float) -> bool:
        """End overdue calls. Whether nothing came in all the time of one of them."""
        is_silent = False
        for pending in self._calls.values():
            if now >= pending.deadline and not pending.answer.done():
                pending.answer.set_exception(Overdue("no answer in time"))
                is_silent = is_silent or self._heard_at <= pending.since
        return is_silent

    def close(self) -> None:
        self._closing = True
        if not self._calls:
            self._end()

    def _end(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._hello)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        failure: UpstreamError = AnswerLost(str(exc) if exc else "closed by the other side")
        if not self.accepted.done():
            self.accepted.set_exception(ConnectionResetError("closed while greeting"))
            self.accepted.exception()
        for pending in self._calls.values():
            if not pending.answer.done():
                pending.answer.set_exception(failure)
        self.resume_writing()

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._heard_at = time.monotonic()
        if self._greeting is not None:
            greeting, end, data = (self._greeting + data).partition(b"\r\n\r\n")
            if not end:
                self._greeting = greeting[:65536]
                return
            self._greeting = None
            if not self.accepted.done():
                self.accepted.set_result(greeting.startswith(_ACCEPTED))
            if not greeting.startswith(_ACCEPTED):
                return
        try:
            frames = self._frames.feed(data)
        except BadFrame:
            self._end()
            return
        calls = self._calls
        for frame in frames:
            if not isinstance(frame, Answer):
                self._end()
                return
            pending = calls.get(frame.id)
            if pending is not None and not pending.answer.done():
                pending.answer.set_result(frame)
