"""Listening, sweeping and draining; connections do the rest."""

import asyncio
import contextlib
import email.utils
import socket
import time
from collections.abc import Sequence

import structlog

from moorage_common.http1.connection import Connection
from moorage_common.http1.exchange import ClientGone, Exchange, Handler
from moorage_common.http1.limits import Limits
from moorage_common.http1.refusals import UNFORESEEN
from moorage_common.http1.standby import Standby

log = structlog.get_logger()

_SWEEP_S = 0.5
_BACKLOG = 2048
_SETTLE_S = 0.05
"""Until connections that the kernel has taken already are known here."""


class Server:
    """Answers with `handler` on sockets that it is given. Made and used in one event loop."""

    def __init__(self, handler: Handler, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.connections: set[Connection] = set()
        self.draining = False
        self.date = b""
        self._handler = handler
        self.loop = asyncio.get_running_loop()
        self._listeners: list[asyncio.Server | Standby] = []
        self._stands_in = False
        self._sweeper: asyncio.Task[None] | None = None
        self._emptied: asyncio.Future[None] | None = None

    async def start(self, listener: socket.socket, others: Sequence[socket.socket] = ()) -> None:
        """Take connections from a bound socket; it stays the caller's.

        Args:
            others: listening sockets on the same port, of processes that this one stands in for, and they for it.
        """
        self._tick()
        mine = listener.dup()
        self._listeners.append(await self.loop.create_server(lambda: Connection(self), sock=mine, backlog=_BACKLOG))
        if others:
            self._stands_in = True
            self._listeners.append(Standby([other.dup() for other in others], lambda: Connection(self)))
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep(), name="http1-sweep")

    async def drain(self) -> None:
        """Stop taking requests, and let those that are under way end.

        For `drain_linger_s` what still comes is answered, each answer the last of its connection, so that a caller
        that has not heard of the end yet loses nothing; then idle connections close, and after `drain_s` all do.
        """
        self.draining = True
        if self._stands_in:
            self._close_listeners()  # the others take what comes
        await asyncio.sleep(_SETTLE_S)
        await self._empty_within(self.limits.drain_linger_s)
        self._close_listeners()
        for connection in list(self.connections):
            connection.close_if_idle()
        await self._empty_within(self.limits.drain_s)
        await self.stop()

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def _empty_within(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.connections:
                    self._emptied = self.loop.create_future()
                    await self._emptied

    def lost(self, connection: Connection) -> None:
        """A connection is no more."""
        self.connections.discard(connection)
        if not self.connections and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    async def stop(self) -> None:
        """Close everything at once; what is under way is cancelled."""
        self._close_listeners()
        for connection in list(self.connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
            self._sweeper = None

    async def run(self, exchange: Exchange) -> None:
        """The handler, whose failures become an answer where none has begun."""
        try:
            await self._handler(exchange)
        except (ClientGone, ConnectionAbortedError):
            exchange.abandon()
        except Exception:
            log.exception("unforeseen error")
            exchange.refuse(UNFORESEEN)
        else:
            if not exchange.ended:
                exchange.abandon()

    def _tick(self) -> None:
        self.date = f"date: {email.utils.formatdate(usegmt=True)}\r\n".encode()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            self._tick()
            now = time.monotonic()
            for connection in list(self.connections):
                connection.check_time(now)
