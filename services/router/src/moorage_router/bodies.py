"""Request bodies: kept whole while small, passed on part by part when large."""

from collections.abc import AsyncIterator, Awaitable, Callable

from moorage_common.errors import TooLarge

KEPT_BYTES = 256 * 1024
"""A body up to this size is kept, so that a lost call can be made again."""

NextPart = Callable[[], Awaitable[tuple[bytes, bool]]]
"""The next part of a body and whether more follow. Raises ClientGone."""


class StreamedBody:
    """A large body. `length` is None when the caller did not say; `started` once a part was passed on."""

    def __init__(self, first: bytes, next_part: NextPart, length: int | None, most: int) -> None:
        self.length = length
        self.started = False
        self.size = len(first)
        self._first = first
        self._next_part = next_part
        self._most = most

    async def chunks(self) -> AsyncIterator[bytes]:
        """The parts, once. Raises TooLarge or ClientGone."""
        self.started = True
        part, more = self._first, True
        self._first = b""
        while True:
            if part:
                yield part
            if not more:
                return
            part, more = await self._next_part()
            self.size += len(part)
            if self.size > self._most:
                raise too_large(self._most)


class IncomingBody:
    """A body not read yet. `length` is what the caller announced, bytes."""

    __slots__ = ("_next_part", "length")

    def __init__(self, next_part: NextPart, length: int | None) -> None:
        self._next_part = next_part
        self.length = length

    async def read(self, most: int, *, kept: int = KEPT_BYTES) -> bytes | StreamedBody:
        """The whole body if it has at most `kept` bytes. Raises TooLarge above `most`."""
        if self.length is not None and self.length > most:
            raise too_large(most)
        part, more = await self._next_part()
        if not more and len(part) <= most:
            return part
        parts, size = [part], len(part)
        while more and size <= min(kept, most):
            part, more = await self._next_part()
            parts.append(part)
            size += len(part)
        if size > most:
            raise too_large(most)
        whole = b"".join(parts)
        return StreamedBody(whole, self._next_part, self.length, most) if more else whole

    async def read_whole(self, most: int) -> bytes:
        """The whole body. Raises TooLarge above `most`."""
        body = await self.read(most, kept=most)
        return body if isinstance(body, bytes) else b"".join([part async for part in body.chunks()])


def too_large(most: int) -> TooLarge:
    return TooLarge(f"the request body is larger than this tenant's {most} bytes; send fewer rows at a time")
