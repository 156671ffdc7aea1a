"""Connections to one address: a bounded number, kept alive, taken in turn."""

import asyncio
import socket
import time
from collections import deque

from moorage_router.upstream import AnswerLost, Body, ConnectFailed, Connection, Overdue, Reply

CONNECT_TIMEOUT_S = 1.0
SWEEP_S = 0.05
_IDLE_S = 60.0


class Pool:
    """Connections to one address. Waits in turn when all are busy."""

    def __init__(self, address: str, most: int) -> None:
        """`address` is `host:port`."""
        self.loop = asyncio.get_running_loop()
        self.address = address
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._most = most
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._opening = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed = False

    async def exchange(self, head: bytes, body: bytes | Body, deadline: float) -> Reply:
        """One request and its answer. Raises ConnectFailed, AnswerLost or Overdue."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.open:
                return await connection.exchange(head, body, deadline)
        connection = await self._open(deadline)
        return await connection.exchange(head, body, deadline)

    async def _open(self, deadline: float) -> Connection:
        while len(self._all) + self._opening >= self._most:
            await self._turn(deadline)
            while self._idle:
                connection = self._idle.pop()
                if connection.open:
                    return connection
        self._opening += 1
        try:
            timeout = min(CONNECT_TIMEOUT_S, deadline - time.monotonic())
            async with asyncio.timeout(max(0.0, timeout)):
                _, connection = await self.loop.create_connection(
                    lambda: Connection(self), self._host, self._port, family=socket.AF_UNSPEC
                )
        except BaseException as error:
            self._next()
            if isinstance(error, OSError):  # TimeoutError is one
                raise ConnectFailed(f"{self.address}: {str(error) or 'no connection in time'}") from error
            raise
        finally:
            self._opening -= 1
        if connection.open:  # counted only here: uvloop never tells of the end of one that was given up before
            self._all.add(connection)
        return connection

    async def _turn(self, deadline: float) -> None:
        waiting: asyncio.Future[None] = self.loop.create_future()
        self._waiting.append(waiting)
        try:
            async with asyncio.timeout_at(self.loop.time() + max(0.0, deadline - time.monotonic())):
                await waiting
        except BaseException as error:
            if waiting.done() and not waiting.cancelled():
                self._next()
            if isinstance(error, TimeoutError):
                raise Overdue("no connection came free") from error
            raise

    def released(self, connection: Connection) -> None:
        """Its exchange is over and it may serve another."""
        if self._closed:
            connection.abort(AnswerLost("pool closed"))
            return
        connection.idle_since = time.monotonic()
        self._idle.append(connection)
        self._next()

    def dropped(self, connection: Connection) -> None:
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._next()

    def _next(self) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                return

    @property
    def empty(self) -> bool:
        return not self._all and not self._opening

    def sweep(self, now: float) -> None:
        """End overdue exchanges and long idle connections; called every 50 ms."""
        for connection in list(self._all):
            if connection.busy:
                if now >= connection.deadline:
                    connection.abort(Overdue("no answer in time"))
            elif now - connection.idle_since > _IDLE_S and connection in self._idle:
                self._idle.remove(connection)
                connection.abort(AnswerLost("idle"))

    def close(self) -> None:
        """Take no more; what is in flight ends by itself."""
        self._closed = True
        for connection in self._idle[:]:
            connection.abort(AnswerLost("pool closed"))
        self._idle.clear()
