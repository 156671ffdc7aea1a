"""Taking in usage: chunks from the stream USAGE, counted once each however often and in whatever order they come."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.clock import Clock
from moorage_common.contracts.names import STREAM_USAGE
from moorage_common.contracts.usage import UsageChunk
from moorage_common.db import Database
from moorage_registry.usage.repository import BootCount, LedgerRepository

log = structlog.get_logger()

CONSUMER = "registry-ledger"
USAGE_MAX_AGE_S = 30 * 86_400.0
ACK_WAIT_S = 30.0
_SUBJECTS = "usage.>"
_BATCH = 256
_FETCH_S = 1.0
_CHECK_S = 5.0
_FORGET_EACH_S = 3600.0

_LARGEST = 2**62
"""Far beyond what a router counts in an hour, and room for sums in 64 bits."""


def read_chunk(data: bytes) -> UsageChunk:
    """The chunk. Raises ValueError when it is none, or holds what the ledger cannot."""
    chunk = UsageChunk.model_validate_json(data)
    for row in chunk.rows:
        for name, value in row:
            if (isinstance(value, int) and not 0 <= value < _LARGEST) or (isinstance(value, str) and "\0" in value):
                message = f"{name} cannot be stored: {value!r:.40}"
                raise ValueError(message)
    return chunk


@dataclass
class UsageConsumer:
    """A durable pull consumer. It is made anew, and the stream too, when either has gone."""

    db: Database
    bus: Bus
    clock: Clock
    on_taken: Callable[[int, int, Sequence[BootCount]], None]
    """Told chunks counted, chunks seen again, and how complete the routers' boots are."""

    async def run(self) -> None:
        """Consume until cancelled."""
        while True:
            try:
                await self.bus.wait()
                await self._consume(await self._subscribe())
            except BUS_ERRORS as error:
                log.debug("usage waits in the stream", error=str(error))
            await asyncio.sleep(0.25)

    async def _subscribe(self) -> JetStreamContext.PullSubscription:
        await self.bus.ensure_stream(STREAM_USAGE, [_SUBJECTS], USAGE_MAX_AGE_S)
        config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, ack_wait=ACK_WAIT_S, max_ack_pending=4 * _BATCH)
        js = self.bus.jetstream()
        return await js.pull_subscribe(_SUBJECTS, durable=CONSUMER, stream=STREAM_USAGE, config=config)

    async def forget_old(self) -> None:
        """Each hour, drop what is only kept to recognise chunks that the stream has since dropped too."""
        while True:
            async with self.db.write() as session:
                await LedgerRepository(session).forget(self.clock() - USAGE_MAX_AGE_S - _FORGET_EACH_S)
            await asyncio.sleep(_FORGET_EACH_S)

    async def _consume(self, subscription: JetStreamContext.PullSubscription) -> None:
        """Until the bus fails. A fetch from a consumer that is gone only times out, so each 5 s it is asked after."""
        checked = time.monotonic()
        try:
            while True:
                try:
                    messages = await subscription.fetch(_BATCH, timeout=_FETCH_S)
                except TimeoutError:
                    messages = []
                if messages:
                    await self._take(messages)
                elif time.monotonic() - checked > _CHECK_S:
                    await subscription.consumer_info()
                    checked = time.monotonic()
        finally:
            await self._leave(subscription)

    async def _leave(self, subscription: JetStreamContext.PullSubscription) -> None:
        try:
            await subscription.unsubscribe()
        except BUS_ERRORS as error:
            log.debug("subscription already gone", error=str(error))

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
        for boot in boots:
            if boot.held < boot.expected:
                log.warning("usage chunks missing so far", router=boot.router, missing=boot.expected - boot.held)
        self.on_taken(len(new), len(chunks) - len(new), boots)
