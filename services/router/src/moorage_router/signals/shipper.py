"""Batches to the bus: in order, each acknowledged, none twice, and never in the way of a request."""

import asyncio
from collections import deque

import structlog
from nats.errors import MaxPayloadError

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.contracts.names import signals_subject
from moorage_common.contracts.signals import SignalBatch
from moorage_common.streams import ensure_signals

log = structlog.get_logger()

MOST_WAITING = 2000
"""Batches that wait for the bus; beyond it the oldest is dropped: a gap is no verdict."""
_RETRY_S = 0.25
_LAST_S = 2.0
"""So long the end of a router waits for the bus to take its last batches."""


class SignalsShipper:
    """Publishes until cancelled. While the bus is away, batches wait in memory, which a killed router loses.

    Attributes:
        sent: batches that the bus has acknowledged.
        dropped: batches for which there was no room.
    """

    def __init__(self, bus: Bus, most_waiting: int = MOST_WAITING) -> None:
        self._bus = bus
        self._most = most_waiting
        self._waiting: deque[SignalBatch] = deque()
        self._sending: SignalBatch | None = None
        self._wake = asyncio.Event()
        self._has_stream = False
        self.sent = 0
        self.dropped = 0

    @property
    def waiting(self) -> int:
        """Batches that the bus has not acknowledged."""
        return len(self._waiting) + (self._sending is not None)

    def take(self, batch: SignalBatch) -> None:
        """Send this batch after those before it."""
        if len(self._waiting) >= self._most:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(batch)
        self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._ship()

    async def close(self) -> None:
        """Send what is left, if the bus takes it soon."""
        if not self._bus.connected:
            return
        try:
            async with asyncio.timeout(_LAST_S):
                await self._ship()
        except TimeoutError:
            log.warning("last batches of signals not sent", batches=self.waiting)

    async def _ship(self) -> None:
        """All that waits, oldest first; one that the bus does not take is sent again until it does."""
        while True:
            if self._sending is None:
                if not self._waiting:
                    return
                self._sending = self._waiting.popleft()
            if await self._publish(self._sending):
                self._sending = None
            else:
                await asyncio.sleep(_RETRY_S)

    async def _publish(self, batch: SignalBatch) -> bool:
        if not self._bus.connected:
            return False
        try:
            if not self._has_stream:
                await ensure_signals(self._bus)
                self._has_stream = True
            await self._bus.jetstream().publish(
                signals_subject(batch.tenant, batch.model), batch.model_dump_json().encode(),
                headers={"Nats-Msg-Id": batch.batch_id},
            )  # fmt: skip
        except MaxPayloadError as error:
            self.dropped += 1
            log.error("batch of signals larger than a message may be, dropped", batch=batch.batch_id, error=str(error))
        except BUS_ERRORS as error:
            self._has_stream = False
            log.debug("batch of signals waits", batch=batch.batch_id, error=str(error))
            return False
        else:
            self.sent += 1
        return True
