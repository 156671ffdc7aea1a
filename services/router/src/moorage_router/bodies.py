"""Request bodies: kept whole while small, passed on part by part when large."""

from collections.abc import AsyncIterator, Awaitable, Callable

from moorage_common.errors import TooLarge

NextPart = Callable[[], Awaitable[bytes | None]]
"""The next part of a body, None after its end. Raises ClientGone."""


class StreamedBody:
    """A large body. `length` is None when the caller did not say; `started` once a part was passed on."""

    def __init__(self, next_part: NextPart, length: int | None, most: int) -> None:
        self.length = length
        self.started = False
        self.size = 0
        self._next_part = next_part
        self._most = most

    async def chunks(self) -> AsyncIterator[bytes]:
        """The parts, once. Raises TooLarge or ClientGone."""
        self.started = True
        while (part := await self._next_part()) is not None:
            self.size += len(part)
            if self.size > self._most:
                raise too_large(self._most)
            yield part


class IncomingBody:
    """A body, whole if it is small. `length` is what the caller announced, bytes."""

    __slots__ = ("_next_part", "_streamed", "length", "whole")

    def __init__(self, whole: bytes | None, next_part: NextPart, length: int | None) -> None:
        self.whole = whole
        self.length = length
        self._next_part = next_part
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
        if self.length is not None and self.length > most:
            raise too_large(most)
        self._streamed = StreamedBody(self._next_part, self.length, most)
        return self._streamed

    async def read_whole(self, most: int) -> bytes:
        """The whole body. Raises TooLarge above `most`."""
        body = self.take(most)
        return body if isinstance(body, bytes) else b"".join([part async for part in body.chunks()])


def too_large(most: int) -> TooLarge:
    return TooLarge(f"the request body is larger than this tenant's {most} bytes; send fewer rows at a time")
