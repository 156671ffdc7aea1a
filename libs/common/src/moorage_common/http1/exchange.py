"""One request and its answer, as a handler sees them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from moorage_common.http1.head import Head
from moorage_common.http1.refusals import Refusal
from moorage_common.http1.splicing import AVAILABLE, Ready

if TYPE_CHECKING:
    from moorage_common.http1.connection import Connection


class ClientGone(Exception):
    """The caller closed its connection, or the rest of its body does not come. A handler lets it pass."""


class Exchange:
    """A request and the way to answer it.

    Attributes:
        body: the whole body, or None for a long one: read that with `next_part`.
        complete: the request was received whole.
        streamed: the handler runs while the body still comes in.
        started: the answer has begun.
        ended: the answer is out.
    """

    __slots__ = (
        "_arrived", "_connection", "_lost", "_parts", "body", "chunked_answer", "complete", "continued", "ended",
        "head", "received", "started", "streamed", "waiting_bytes",
    )  # fmt: skip

    def __init__(self, connection: "Connection", head: Head, body: bytes | None = None) -> None:
        self._connection = connection
        self.head = head
        self.body = body
        self.complete = body is not None
        self.started = self.ended = self.streamed = False
        if body is None:
            self._parts: list[bytes] = []
            self._arrived: asyncio.Future[None] | None = None
            self._lost = self.continued = self.chunked_answer = False
            self.received = self.waiting_bytes = 0

    @property
    def peer(self) -> str:
        """Address that the connection came from; empty where it has none."""
        return self._connection.peer

    # -- the request's body

    def feed(self, part: bytes) -> None:
        """A part of the body came in."""
        self._parts.append(part)
        self.received += len(part)
        self.waiting_bytes += len(part)
        self._wake()

    def finish(self) -> None:
        """The body is whole."""
        self.complete = True
        if not self.streamed:
            parts, self._parts = self._parts, []
            self.body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._wake()

    def lose(self) -> None:
        """The rest of the body will not come."""
        if not self.complete:
            self._lost = True
            self._wake()

    async def next_part(self) -> bytes | None:
        """What came in of a long body since the last call; None after its end. Raises ClientGone."""
        while not self._parts:
            if self.complete:
                return None
            if self._lost:
                raise ClientGone
            self._arrived = asyncio.get_running_loop().create_future()
            self._connection.want_more(self)  # which may find some that was held
            await self._arrived
        return self.take_received()

    async def read_whole(self) -> bytes | bytearray:
        """The whole body; one of known length takes that much at once. Raises ClientGone."""
        if self.body is not None:
            return self.body
        if self.head.content_length is not None and not self.complete:
            return await self._connection.receive(self, self.head.content_length)
        parts = []
        while (part := await self.next_part()) is not None:
            parts.append(part)
        return b"".join(parts)

    @property
    def can_splice(self) -> bool:
        """The rest of the body can go to another socket without coming here (`splice`)."""
        expected = self.head.expects_continue and not self.continued
        return AVAILABLE and not (self.complete or self._lost or expected or self._connection.holds)

    def begin_splice(self) -> bytes:
        """What came in already, to be sent first; the rest stays where it is until `splice`."""
        self._connection.leave_rest()
        return self.take_received()

    async def splice(self, target: int, ready: Ready) -> int:
        """Move the rest of the body to the socket `target`; its bytes. Raises ClientGone, OSError."""
        return await self._connection.splice(self, target, ready)

    def wait_with(self, arrived: "asyncio.Future[None]") -> None:
        """Let `arrived` be set when the rest of the body will not come."""
        self._arrived = arrived
        if self._lost:
            self._wake()

    def arrived_with(self, arrived: "asyncio.Future[None]") -> None:
        """The body is whole, in a buffer of its reader's."""
        self.complete = True
        if not arrived.done():
            arrived.set_result(None)

    def take_received(self) -> bytes:
        """What came in and was not taken."""
        parts, self._parts, self.waiting_bytes = self._parts, [], 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    # -- the answer

    def respond(self, status: int, fields: bytes, body: bytes) -> None:
        """Send a whole answer; `fields` are encoded header lines without those of framing."""
        self.started = self.ended = True
        self._connection.send_whole(self, status, fields, body)

    def begin(self, status: int, fields: bytes, length: int | None) -> None:
        """Begin an answer of `length` bytes; None sends it chunked. Raises ClientGone."""
        self.started = True
        self._connection.send_head(self, status, fields, length)

    async def send(self, part: bytes) -> None:
        """A part of the answer; waits while the caller does not read. Raises ClientGone."""
        await self._connection.send_part(self, part)

    def end(self) -> None:
        """The answer is whole."""
        self.ended = True
        self._connection.send_end(self)

    def switch(self, protocol: str, successor: asyncio.Protocol) -> None:
        """Answer 101 and give the connection to `successor`, which speaks `protocol` from here on."""
        self.started = self.ended = True
        self._connection.switch(self, protocol, successor)

    def refuse(self, refusal: Refusal) -> None:
        """The handler failed: say so where no answer has begun, and end the connection."""
        self._connection.give_up(self, refusal)

    def abandon(self) -> None:
        """The handler ended without a whole answer: end the connection."""
        self._connection.give_up(self, None)


Handler = Callable[[Exchange], Awaitable[None]]
