"""Taking in usage: chunks from the stream USAGE, counted once each however often and in whatever order they come."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog
from nats.aio.msg import Msg

from moorage_common.bus import Bus
from moorage_common.clock import Clock
from moorage_common.contracts.names import STREAM_USAGE
from moorage_common.contracts.usage import UsageChunk
from moorage_common.db import Database
from moorage_registry.pulling import Pulling
from moorage_registry.usage.repository import BootCount, LedgerRepository
from moorage_registry.usage.reservations import ReservationRepository

log = structlog.get_logger()

CONSUMER = "registry-ledger"
USAGE_MAX_AGE_S = 30 * 86_400.0
ACK_WAIT_S = 30.0
_SUBJECTS = "usage.>"
_FORGET_EACH_S = 3600.0

_LARGEST = 2**62
"""Far beyond what a router counts in an hour, and room for sums in 64 bits."""
_LAST_HOUR = 253_402_300_799
"""The end of the calendar that months are counted by."""


def read_chunk(data: bytes) -> UsageChunk:
    """The chunk. Raises ValueError when it is none, or holds what the ledger cannot."""
    chunk = UsageChunk.model_validate_json(data)
    for row in chunk.rows:
        for name, value in row:
            if (isinstance(value, int) and not 0 <= value < _LARGEST) or (isinstance(value, str) and "\0" in value):
                message = f"{name} cannot be stored: {value!r:.40}"
                raise ValueError(message)
        if row.hour > _LAST_HOUR:
            message = f"there is no hour {row.hour}"
            raise ValueError(message)
    return chunk


async def _ensure(bus: Bus) -> None:
    await bus.ensure_stream(STREAM_USAGE, [_SUBJECTS], USAGE_MAX_AGE_S)


@dataclass
class UsageConsumer:
    """A durable pull consumer. It is made anew, and the stream too, when either has gone."""

    db: Database
    bus: Bus
    clock: Clock
    on_taken: Callable[[int, int, Sequence[BootCount]], None]
    """Told chunks counted, chunks seen again, and how complete the routers' boots are."""
    on_used: Callable[[Mapping[str, float]], None] = lambda _used: None
    """Told when keys were last used, by kid."""

    async def run(self) -> None:
        """Consume until cancelled."""
        pulling = Pulling(self.bus, STREAM_USAGE, _SUBJECTS, CONSUMER, _ensure, self._take, ack_wait_s=ACK_WAIT_S)
        await pulling.run()

    async def forget_old(self) -> None:
        """Each hour, drop what is only kept to recognise chunks that the stream has since dropped too."""
        while True:
            async with self.db.write() as session:
                await LedgerRepository(session).forget(self.clock() - USAGE_MAX_AGE_S - _FORGET_EACH_S)
            await asyncio.sleep(_FORGET_EACH_S)

    async def _take(self, messages: Sequence[Msg]) -> None:
        """One transaction for the batch, then the acknowledgements: a crash between the two costs nothing."""
        chunks: dict[str, UsageChunk] = {}
        readable = []
        for message in messages:
            try:
                chunk = read_chunk(message.data)
            except ValueError as error:
                log.error("usage chunk dropped", subject=message.subject, error=str(error))
                await message.term()
                continue
            chunks[chunk.chunk_id] = chunk
            readable.append(message)
        await self.take_in(list(chunks.values()))
        for message in readable:
            await message.ack()

    async def take_in(self, chunks: Sequence[UsageChunk]) -> None:
        """Count each of `chunks` that was not counted before. Their ids differ."""
        if not chunks:
            return
        async with self.db.write() as session:
            ledger = LedgerRepository(session)
            new = await ledger.claim(chunks, self.clock())
            counted = [chunk for chunk in chunks if chunk.chunk_id in new]
            await ledger.add(row for chunk in counted for row in chunk.rows)
            boots = await ledger.count(counted)
            await ReservationRepository(session).settle(counted)
        for boot in boots:
            if boot.held < boot.expected:
                log.warning("usage chunks missing so far", router=boot.router, missing=boot.expected - boot.held)
        self.on_used(_used(counted, self.clock()))
        self.on_taken(len(new), len(chunks) - len(new), boots)


def _used(chunks: Sequence[UsageChunk], now: float) -> dict[str, float]:
    """When keys were last used, by kid: the end of the hour of the sums, or now within it."""
    used: dict[str, float] = {}
    for row in (row for chunk in chunks for row in chunk.rows):
        used[row.kid] = max(used.get(row.kid, 0.0), min(now, row.hour + 3600.0))
    return used
