"""A long body of known length, received by the kernel straight into the buffer that the handler gets.

Through the parser each byte would be copied four times more.
"""

import asyncio
from collections.abc import Callable


class BodyReceiver(asyncio.BufferedProtocol):
    """Stands in for a connection until `buffer` is full from `at` on, then calls `full`, within the same turn."""

    def __init__(self, connection: asyncio.Protocol, buffer: bytearray, at: int, full: Callable[[], None]) -> None:
        self._connection = connection
        self._rest = memoryview(buffer)[at:]
        self._full = full
        self._came = False

    def progressed(self) -> bool:
        """Whether something came since this was asked last."""
        came, self._came = self._came, False
        return came

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._rest

    def buffer_updated(self, nbytes: int) -> None:
        self._came = True
        self._rest = self._rest[nbytes:]
        if not self._rest:
            self._full()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()
