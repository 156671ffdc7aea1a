"""Request bodies: kept whole while small, passed on part by part when large."""

from collections.abc import AsyncIterator

from moorage_common.errors import TooLarge
from moorage_common.http1 import Exchange
from moorage_common.http1.splicing import Ready


class StreamedBody:
    """A large body. `length` is None when the caller did not say; `started` once a part was passed on."""

    def __init__(self, exchange: Exchange, most: int) -> None:
        self.length = exchange.head.content_length
        self.started = False
        self.size = 0
        self._exchange = exchange
        self._most = most

    async def chunks(self) -> AsyncIterator[bytes]:
        """The parts, once. Raises TooLarge or ClientGone."""
        self.started = True
        while (part := await self._exchange.next_part()) is not None:
            self.size += len(part)
            if self.size > self._most:
                raise too_large(self._most)
            yield part

    @property
    def can_splice(self) -> bool:
        """What has not come yet can go to a host's socket within the kernel."""
        return self.length is not None and self._exchange.can_splice

    def begin_splice(self) -> bytes:
        """What has come already, to be sent first."""
        self.started = True
        part = self._exchange.begin_splice()
        self.size += len(part)
        return part

    async def splice(self, target: int, ready: Ready) -> None:
        """Move the rest to the socket `target`. Raises ClientGone, OSError."""
        self.size += await self._exchange.splice(target, ready)


class IncomingBody:
    """A body, whole if it is small."""

    __slots__ = ("_exchange", "_streamed", "whole")

    def __init__(self, exchange: Exchange) -> None:
        self.whole = exchange.body
        self._exchange = exchange
        self._streamed: StreamedBody | None = None

    @property
    def size(self) -> int:
        """Bytes that came."""
        if self.whole is not None:
            return len(self.whole)
        return self._streamed.size if self._streamed is not None else 0

    def take(self, most: int) -> bytes | StreamedBody:
        """The whole body if it is here, else its stream. Raises TooLarge above `most`."""
        whole = self.whole
        if whole is not None:
            if len(whole) > most:
                raise too_large(most)
            return whole
        length = self._exchange.head.content_length
        if length is not None and length > most:
            raise too_large(most)
        self._streamed = StreamedBody(self._exchange, most)
        return self._streamed

    async def read_whole(self, most: int) -> bytes:
        """The whole body, which is kept. Raises TooLarge above `most`."""
        body = self.take(most)
        if not isinstance(body, bytes):
            body = self.whole = b"".join([part async for part in body.chunks()])
        return body


def too_large(most: int) -> TooLarge:
    return TooLarge(f"the request body is larger than this tenant's {most} bytes; send fewer rows at a time")
