"""One connection: requests in, answers out, in order."""

import asyncio
import os
import time
from collections import deque
from typing import TYPE_CHECKING, cast

from moorage_common.http1.exchange import ClientGone, Exchange
from moorage_common.http1.head import Head, answer_head, peer_of, status_line
from moorage_common.http1.incoming import Incoming
from moorage_common.http1.receiving import BodyReceiver
from moorage_common.http1.refusals import TOO_MANY, TOO_SLOW, Refusal
from moorage_common.http1.splicing import Ready, splice

if TYPE_CHECKING:
    from moorage_common.http1.server import Server

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_JOINED_BYTES = 64 * 1024  # up to here joining head and body costs less than another segment does
_KNOWN_MOST = 8 * 1024  # a longer head is not kept: thousands of connections may be idle
_NO_HEAD = b"\0"  # no request begins with it


class Connection(asyncio.Protocol):
    """Made by a Server for each connection. `exchange` is the one that is being answered."""

    __slots__ = (
        "_close_after", "_elsewhere", "_idle", "_incoming", "_known", "_known_head", "_known_total", "_lingers",
        "_paused", "_queue", "_receiver", "_sending", "_server", "_since", "_task", "_transport", "_writable",
        "exchange", "limits", "peer",
    )  # fmt: skip

    def __init__(self, server: "Server") -> None:
        self._server = server
        self.limits = server.limits
        self._incoming = Incoming(self)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._queue: deque[Exchange] | None = None
        self._receiver: BodyReceiver | None = None
        self.exchange: Exchange | None = None
        self._since = time.monotonic()
        self._idle = self._sending = True
        self._lingers = self._paused = self._close_after = self._elsewhere = False
        self._known: Head | None = None
        self._known_head = _NO_HEAD
        self._known_total = 0
        self._writable: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.peer = peer_of(transport)
        self._server.connections.add(self)
        if len(self._server.connections) > self.limits.connections:
            self._refuse(TOO_MANY)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._queue = None
        self._server.lost(self)
        self._incoming.close()
        if self._task is not None:
            self._task.cancel()
        self.resume_writing()

    def pause_writing(self) -> None:
        self._sending = False
        self._since = time.monotonic()
        self._flow()

    def resume_writing(self) -> None:
        self._sending = True
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        if self.exchange is None and self._queue:
            self._start(self._queue.popleft())
        self._taken()

    def data_received(self, data: bytes) -> None:
        if not self._idle:
            if not self._lingers:
                self._feed(data)
            return
        if len(data) == self._known_total and data.startswith(self._known_head):
            self._start(Exchange(self, cast("Head", self._known), data[len(self._known_head) :]))
            return
        self._idle = False
        self._since = time.monotonic()
        incoming = self._incoming
        incoming.heads = 0
        self._feed(data)
        last, incoming.last = incoming.last, None
        if incoming.heads == 1 and last is not None and not incoming.begun and incoming.refusal is None:
            self._remember(last, data)

    @property
    def holds(self) -> bool:
        """Bytes came in that are not parsed yet."""
        return bool(self._incoming.held)

    @property
    def behind(self) -> bool:
        """Requests wait for the one that is being answered."""
        return bool(self._queue)

    def _feed(self, data: bytes) -> None:
        self._incoming.feed(data)
        self._taken()

    def _taken(self) -> None:
        """What came in was parsed, or an exchange's turn came."""
        incoming = self._incoming
        reading = incoming.reading
        if reading is not None:
            self._since = time.monotonic()
        if incoming.refusal is not None:
            if self.exchange is None:
                self._refuse(incoming.refusal)
            elif reading is not None and reading is self.exchange:
                reading.lose()
        self._flow()

    def _flow(self) -> None:
        """Read on or not: a caller that sends faster than it is served, or does not read its answers, waits."""
        incoming, transport = self._incoming, self._transport
        if transport is None:
            return
        reading = incoming.reading
        ahead = reading is not None and reading.streamed and reading.waiting_bytes > self.limits.read_ahead
        pause = not self._lingers and (bool(self._queue) or ahead or self._elsewhere or not self._sending)
        if pause == self._paused:
            return
        if not pause and incoming.held:
            incoming.feed_held()
            self._taken()
            return
        self._paused = pause
        if pause:
            transport.pause_reading()
        else:
            self._since = time.monotonic()
            transport.resume_reading()

    def _remember(self, head: Head, data: bytes) -> None:
        """Keep a head that came whole with its body, and alone: the next request is likely to have the same.

        The same bytes between two requests have the same meaning, so such a request need not be parsed.
        """
        length = head.content_length
        if length is None or head.expects_continue or not head.keep_alive:
            return
        at = len(data) - length
        if at <= _KNOWN_MOST and data.find(b"\r\n\r\n") == at - 4:
            self._known, self._known_head, self._known_total = head, data[:at], len(data)

    # -- from request to answer

    def hand_over(self, exchange: Exchange) -> None:
        """Start its handler, or let it wait its turn."""
        if self.exchange is None and not self._queue:
            self._start(exchange)
        elif self._queue is None:
            self._queue = deque([exchange])
        else:
            self._queue.append(exchange)

    def expected(self, exchange: Exchange) -> None:
        """Its caller waits for leave to send a body that is kept, and gets it when its turn comes."""
        if self.exchange is None and self._transport is not None and not exchange.continued:
            exchange.continued = True
            self._transport.write(_CONTINUE)

    def _start(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self._idle = False
        self._task = self._server.loop.create_task(self._server.run(exchange))

    def want_more(self, exchange: Exchange) -> None:
        """The handler took what there was of the body."""
        if exchange is not self.exchange or self._transport is None:
            return
        if exchange.head.expects_continue and not exchange.continued:
            exchange.continued = True
            self._transport.write(_CONTINUE)
        self._flow()

    async def receive(self, exchange: Exchange, length: int) -> bytearray:
        """The long body of the exchange that is being answered, in one buffer. Raises ClientGone."""
        incoming = self._incoming
        if self._transport is None or exchange is not self.exchange or exchange is not incoming.reading:
            raise ClientGone
        self.want_more(exchange)  # which may find some that was held
        buffer, received = bytearray(length), exchange.take_received()
        buffer[: len(received)] = received
        if exchange.complete:
            return buffer
        full = self._server.loop.create_future()

        def go_on() -> None:
            self._receiver = None
            self._read_by(self)
            incoming.finish_elsewhere()
            exchange.arrived_with(full)

        exchange.wait_with(full)
        self._receiver = BodyReceiver(self, buffer, len(received), go_on)
        self._read_by(self._receiver)
        await full
        if not exchange.complete:
            raise ClientGone
        return buffer

    def leave_rest(self) -> None:
        """Read no more here: the rest of the body goes elsewhere."""
        self._elsewhere = True
        self._flow()

    async def splice(self, exchange: Exchange, target: int, ready: Ready) -> int:
        """Move the rest of a long body to the socket `target`; its bytes. Raises ClientGone, OSError."""
        transport, incoming = self._transport, self._incoming
        length = exchange.head.content_length
        if transport is None or exchange is not self.exchange or exchange is not incoming.reading or length is None:
            raise ClientGone
        left = length - exchange.received
        source = os.dup(transport.get_extra_info("socket").fileno())
        try:
            await splice(source, target, left, ready)
        except EOFError:
            raise ClientGone from None
        finally:
            os.close(source)
            self._elsewhere = False
        incoming.finish_elsewhere()
        exchange.complete = True
        self._flow()
        return left

    def _read_by(self, protocol: asyncio.BaseProtocol) -> None:
        """Let `protocol` have what comes in from here on."""
        if self._transport is not None:
            self._transport.pause_reading()
            self._transport.set_protocol(protocol)
            self._transport.resume_reading()
            self._paused = False

    def send_whole(self, exchange: Exchange, status: int, fields: bytes, body: bytes) -> None:
        transport = self._transport
        if transport is None or exchange is not self.exchange:
            return
        close = self._closes(exchange)
        head = answer_head(status, self._server.date, fields, len(body), close=close)
        if exchange.head.method == b"HEAD":
            transport.write(head)
        elif len(body) > _JOINED_BYTES:
            transport.writelines([head, body])
        else:
            transport.write(head + body)
        self._finish(exchange, close=close)

    def send_head(self, exchange: Exchange, status: int, fields: bytes, length: int | None) -> None:
        if self._transport is None or exchange is not self.exchange:
            raise ClientGone
        exchange.chunked_answer = length is None
        self._close_after = self._closes(exchange)
        self._transport.write(answer_head(status, self._server.date, fields, length, close=self._close_after))

    async def send_part(self, exchange: Exchange, part: bytes) -> None:
        if self._transport is None or exchange is not self.exchange:
            raise ClientGone
        if not part:
            return
        if exchange.chunked_answer:
            self._transport.writelines([b"%x\r\n" % len(part), part, b"\r\n"])
        else:
            self._transport.write(part)
        if not self._sending:
            self._writable = self._server.loop.create_future()
            await self._writable

    def send_end(self, exchange: Exchange) -> None:
        if self._transport is None or exchange is not self.exchange:
            return
        if exchange.chunked_answer:
            self._transport.write(b"0\r\n\r\n")
        self._finish(exchange, close=self._close_after)

    def _closes(self, exchange: Exchange) -> bool:
        """Whether this answer is the connection's last: asked for, draining, or the request was not read whole."""
        return not exchange.head.keep_alive or self._server.draining or not exchange.complete

    def _finish(self, exchange: Exchange, *, close: bool) -> None:
        self.exchange = self._task = None
        if close:
            more = bool(self._queue) or self._incoming.begun or bool(self._incoming.held)
            self._end(read_whole=exchange.complete and not more)
        elif self._queue:
            if self._sending:
                self._start(self._queue.popleft())
            self._taken()
        elif self._incoming.refusal is not None:
            self._refuse(self._incoming.refusal)
        else:
            self._since = time.monotonic()
            self._idle = not self._incoming.begun
            reading = self._incoming.reading
            if reading is not None and reading.head.expects_continue:
                self.expected(reading)
            if self._paused:
                self._flow()

    def _end(self, *, read_whole: bool) -> None:
        """Close once the answer is out. While the caller still sends, closing at once would reset it unread."""
        transport = self._transport
        if transport is None:
            return
        self._idle = False
        self._queue = None
        self._incoming.held = b""
        self._since = time.monotonic()
        if read_whole:
            transport.close()
            return
        self._lingers = True
        if transport.can_write_eof():
            transport.write_eof()
        self._flow()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer a request that no handler sees, and end."""
        if self._transport is None or self._lingers:
            return
        body = refusal.body
        head = answer_head(refusal.status, self._server.date, refusal.fields, len(body), close=True)
        self._transport.write(head + body)
        self._end(read_whole=False)

    def switch(self, exchange: Exchange, protocol: str, successor: asyncio.Protocol) -> None:
        transport = self._transport
        if transport is None or exchange is not self.exchange:
            return
        self.exchange = self._task = self._transport = None
        self._server.lost(self)
        self._incoming.close()
        transport.write(b"%bconnection: upgrade\r\nupgrade: %b\r\n\r\n" % (status_line(101), protocol.encode()))
        transport.set_protocol(successor)
        successor.connection_made(transport)

    # -- what the server asks

    def give_up(self, exchange: Exchange, refusal: Refusal | None) -> None:
        """Its handler ended without a whole answer; where the caller is at fault, it is told so."""
        if exchange is not self.exchange:
            return
        self.exchange = self._task = None
        refusal = self._incoming.refusal or refusal
        if refusal is None or exchange.started:
            self.abort()
        else:
            self._refuse(refusal)

    def close_if_idle(self) -> None:
        if self.exchange is None and not self._lingers and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _waited(self, now: float) -> float:
        if self._receiver is not None and self._receiver.progressed():
            self._since = now
        return now - self._since

    def check_time(self, now: float) -> None:
        """End what waits too long; called twice a second."""
        limits, waited, reading = self.limits, self._waited(now), self._incoming.reading
        transport = self._transport
        if transport is None:
            return
        if self._lingers or transport.is_closing():
            if waited > (limits.write_s if transport.get_write_buffer_size() else limits.linger_s):
                transport.abort()
        elif not self._sending:
            if waited > limits.write_s:
                self.abort()
        elif reading is not None:
            if waited > limits.body_s and not self._paused:
                if reading is self.exchange:
                    self._incoming.refusal = TOO_SLOW
                    reading.lose()
                elif self.exchange is None:
                    self._refuse(TOO_SLOW)
        elif self.exchange is None and waited > (limits.idle_s if self._idle else limits.head_s):
            if self._idle:
                self.close_if_idle()
            else:
                self._refuse(TOO_SLOW)
