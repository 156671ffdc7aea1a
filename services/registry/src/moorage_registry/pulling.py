"""A durable pull consumer of a stream: what was taken is acknowledged, and it is made anew when it has gone."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig

from moorage_common.bus import BUS_ERRORS, Bus

log = structlog.get_logger()

_FETCH_S = 1.0
_CHECK_S = 5.0


@dataclass(frozen=True)
class Pulling:
    """One consumer, shared by all registries under the name `durable`.

    Attributes:
        ensure: makes the stream where it is absent.
        take: works on the messages of one fetch and acknowledges them; what it does not acknowledge comes again.
        batch: messages a fetch.
        ack_wait_s: when a message that nobody acknowledged comes again.
    """

    bus: Bus
    stream: str
    subjects: str
    durable: str
    ensure: Callable[[Bus], Awaitable[None]]
    take: Callable[[Sequence[Msg]], Awaitable[None]]
    batch: int = 256
    ack_wait_s: float = 30.0

    async def run(self) -> None:
        """Consume until cancelled. The bus being away delays and loses nothing."""
        while True:
            try:
                await self.bus.wait()
                await self._consume(await self._subscribe())
            except BUS_ERRORS as error:
                log.debug("messages wait in the stream", stream=self.stream, error=str(error))
            await asyncio.sleep(0.25)

    async def _subscribe(self) -> JetStreamContext.PullSubscription:
        await self.ensure(self.bus)
        config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, ack_wait=self.ack_wait_s, max_ack_pending=4 * self.batch)
        js = self.bus.jetstream()
        return await js.pull_subscribe(self.subjects, durable=self.durable, stream=self.stream, config=config)

    async def _consume(self, subscription: JetStreamContext.PullSubscription) -> None:
        """Until the bus fails. A fetch from a consumer that is gone only times out, so each 5 s it is asked after."""
        checked = time.monotonic()
        try:
            while True:
                try:
                    messages = await subscription.fetch(self.batch, timeout=_FETCH_S)
                except TimeoutError:
                    messages = []
                if messages:
                    await self.take(messages)
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
