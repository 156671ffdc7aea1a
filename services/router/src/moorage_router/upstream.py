"""One HTTP/1.1 connection to a host or service, on asyncio protocols and httptools; pool.py has many."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Protocol, cast

import httptools

from moorage_common.http1.splicing import Ready

if TYPE_CHECKING:
    from moorage_router.pool import Pool

_BUFFERED = 64 * 1024
"""An answer up to this size is handed over whole; a longer one is streamed from here on."""
_READ_AHEAD = 256 * 1024
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"te", b"trailer", b"upgrade"}
)

Headers = list[tuple[bytes, bytes]]


class UpstreamError(Exception):
    """A call without an answer: to its caller a 502, where nothing else is said."""

    status = 502


class ConnectFailed(UpstreamError):
    """Nothing was sent."""


class AnswerLost(UpstreamError):
    """The connection broke before the answer was there."""


class Overdue(UpstreamError):
    """The deadline passed."""


class Body(Protocol):
    """A request body that is not in memory as a whole."""

    length: int | None

    def chunks(self) -> AsyncIterator[bytes]:
        """The parts, once."""
        ...

    @property
    def can_splice(self) -> bool:
        """The rest can be moved by the kernel: `begin_splice`, then `splice`."""
        ...

    def begin_splice(self) -> bytes:
        """What has come already, to be sent first."""
        ...

    async def splice(self, target: int, ready: Ready) -> None:
        """Move what has not come yet to the socket `target`."""
        ...


class Reply:
    """An answer: header names in lower case, hop-by-hop ones left out. `body` is whole unless `rest` is set."""

    __slots__ = ("body", "headers", "rest", "status")

    def __init__(self, status: int, headers: Headers, body: bytes, rest: "Connection | None") -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.rest = rest

    @property
    def length(self) -> int | None:
        """Bytes of the whole body, where the host said so."""
        said = self.header(b"content-length")
        return int(said) if said is not None and said.isdigit() else None

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The whole body, part by part. Raises AnswerLost or Overdue."""
        yield self.body
        if self.rest is not None:
            async for chunk in self.rest.tail():
                yield chunk

    def discard(self) -> None:
        """Give up a streamed answer."""
        if self.rest is not None:
            self.rest.abort(AnswerLost("given up"))


class Connection(asyncio.Protocol):
    """One connection, one exchange at a time. Created by a Pool."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._parser: Any = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Reply] | None = None
        self._failure: UpstreamError | None = None
        self._writable: asyncio.Future[None] | None = None
        self._write_paused = False
        self._uploading = False
        self.deadline = 0.0
        self.busy = False
        self.idle_since = 0.0
        self._reset()

    def _reset(self) -> None:
        self._headers: Headers = []
        self._chunks: list[bytes] = []
        self._size = 0
        self._streaming = False
        self._complete = False
        self._keep_alive = False
        self._arrived: asyncio.Future[None] | None = None

    @property
    def open(self) -> bool:
        """Whether the other side has not closed it, as far as is known."""
        return self._transport is not None and not self._transport.is_closing()

    # -- one exchange

    async def exchange(self, head: bytes, body: bytes | Body, deadline: float) -> Reply:
        """Send a request and wait for its answer, streamed beyond 64 KiB.

        Args:
            head: request line and headers with the empty line, ready to send.
            deadline: monotonic seconds.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ConnectFailed("closed while idle")
        self._reset()
        self.busy = True
        self.deadline = deadline
        answer: asyncio.Future[Reply] = self._pool.loop.create_future()
        self._answer = answer
        try:
            if isinstance(body, bytes):
                transport.write(head + body)
            else:
                transport.write(head)
                await self._upload(transport, body, answer)
            return await answer
        except asyncio.CancelledError:
            self.abort(AnswerLost("given up"))  # nobody waits: the host hears of it by the end of the connection
            raise

    async def _upload(self, transport: asyncio.Transport, body: Body, answer: "asyncio.Future[Reply]") -> None:
        """Send the parts as they come; stop when the answer comes first, or the deadline."""
        self._uploading = True
        sending = self._pool.loop.create_task(self._send(transport, body), name="upload")
        try:
            await asyncio.wait((sending, answer), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
                self._uploading = False
        except BaseException:
            if answer.done() and not answer.cancelled():
                answer.exception()
            answer.cancel()
            self.abort(AnswerLost("upload given up"))
            raise
        finally:
            sending.cancel()

    async def _send(self, transport: asyncio.Transport, body: Body) -> None:
        if body.can_splice:
            await self._splice(transport, body)
            return
        async for chunk in body.chunks():
            transport.write(chunk if body.length is not None else b"%x\r\n%b\r\n" % (len(chunk), chunk))
            if self._write_paused:
                self._writable = self._pool.loop.create_future()
                await self._writable
        if body.length is None:
            transport.write(b"0\r\n\r\n")

    async def _splice(self, transport: asyncio.Transport, body: Body) -> None:
        """Send the body from socket to socket, once what stands before it is out."""
        transport.set_write_buffer_limits(high=0)
        transport.write(body.begin_splice())
        try:
            while transport.get_write_buffer_size():
                if self._write_paused:
                    self._writable = self._pool.loop.create_future()
                    await self._writable
                else:
                    await asyncio.sleep(0)
            target = os.dup(transport.get_extra_info("socket").fileno())
            try:
                await body.splice(target, self._ready)
            finally:
                os.close(target)
        except OSError as error:
            raise AnswerLost(str(error)) from error
        finally:
            transport.set_write_buffer_limits()

    async def _ready(self, descriptor: int, writing: bool) -> None:
        loop = self._pool.loop
        ready = asyncio.Event()
        add, remove = (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
        try:
            add(descriptor, ready.set)
        except OSError:  # the loop has not let go of an earlier one of that number yet: look again soon
            await asyncio.sleep(0.001)
            return
        try:
            await ready.wait()
        finally:
            remove(descriptor)

    async def tail(self) -> AsyncIterator[bytes]:
        """What comes after the part that the Reply holds."""
        try:
            while True:
                chunks, self._chunks, self._size = self._chunks, [], 0
                if self._transport is not None:
                    self._transport.resume_reading()
                for chunk in chunks:
                    yield chunk
                if self._chunks:
                    continue
                if self._complete:
                    self._finished()
                    return
                if self._failure is not None:
                    raise self._failure
                self._arrived = self._pool.loop.create_future()
                await self._arrived
        finally:
            if not self._complete:
                self.abort(AnswerLost("given up"))

    def abort(self, failure: UpstreamError) -> None:
        """End the connection; whoever waits gets `failure`."""
        self._fail(failure)
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, failure: UpstreamError) -> None:
        self._failure = self._failure or failure
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(failure)
        for waiting in (self._arrived, self._writable):
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(AnswerLost(str(exc) if exc else "closed by the other side"))
        self._pool.dropped(self)

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def data_received(self, data: bytes) -> None:
        if not self.busy:
            self.abort(AnswerLost("unasked bytes"))
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.abort(AnswerLost(f"not HTTP: {error}"))
            return
        if self._streaming and not self._complete:
            if self._arrived is not None and not self._arrived.done():
                self._arrived.set_result(None)
            if self._size > _READ_AHEAD and self._transport is not None:
                self._transport.pause_reading()

    # -- httptools

    def on_message_begin(self) -> None:
        if self._complete:
            raise ValueError("a second answer to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name not in _HOP_BY_HOP:
            self._headers.append((name, value))

    def on_body(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size > _BUFFERED and not self._streaming:
            self._streaming = True
            body, self._chunks, self._size = b"".join(self._chunks), [], 0
            self._give(Reply(self._parser.get_status_code(), self._headers, body, self))

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._reset()
            return
        self._complete = True
        self._keep_alive = self._parser.should_keep_alive()
        if self._streaming:
            if self._arrived is not None and not self._arrived.done():
                self._arrived.set_result(None)
        else:
            chunks = self._chunks
            self._give(Reply(status, self._headers, chunks[0] if len(chunks) == 1 else b"".join(chunks), None))
            self._finished()

    def _finished(self) -> None:
        """The exchange is over: free the connection for the next, or close it."""
        self.busy = False
        if self._transport is None:
            return
        if self._uploading or not self._keep_alive:
            self._transport.close()
        else:
            self._pool.released(self)

    def _give(self, reply: Reply) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(reply)
