"""What routers saw, read from the stream SIGNALS in order, from its start: who reads knows what was read before."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from nats.js import JetStreamContext
from pydantic import ValidationError

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.contracts.names import STREAM_SIGNALS
from moorage_common.contracts.signals import SignalBatch
from moorage_common.streams import SIGNALS_SUBJECTS, ensure_signals

log = structlog.get_logger()

_WAIT_S = 1.0
_CHECK_EACH_S = 2.0


@dataclass
class Intake:
    """Reads while `wanted` is set, each time from the start of the stream; a consumer that is gone is made anew."""

    bus: Bus
    take: Callable[[SignalBatch], None]
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    _again: bool = False

    def restart(self) -> None:
        """Read the whole stream again."""
        self._again = True

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            await self.wanted.wait()
            try:
                await self.bus.wait()
                await ensure_signals(self.bus)
                await self._follow()
            except BUS_ERRORS as error:
                log.debug("batches wait in the stream", error=str(error))
            await asyncio.sleep(0.1)

    async def _follow(self) -> None:
        self._again = False
        js = self.bus.jetstream()
        subscription = await js.subscribe(SIGNALS_SUBJECTS, stream=STREAM_SIGNALS, ordered_consumer=True)
        loop = asyncio.get_running_loop()
        checked = loop.time()
        try:
            while self.wanted.is_set() and not self._again:
                with contextlib.suppress(TimeoutError):
                    message = await subscription.next_msg(timeout=_WAIT_S)
                    if not self._again:
                        self._read(message.data)
                if loop.time() - checked > _CHECK_EACH_S:
                    # A consumer that went with its server only falls silent.
                    await subscription.consumer_info()
                    checked = loop.time()
        finally:
            await self._leave(subscription)

    def _read(self, data: bytes) -> None:
        try:
            batch = SignalBatch.model_validate_json(data)
        except ValidationError as error:
            log.error("unreadable batch dropped", errors=error.error_count())
            return
        self.take(batch)

    async def _leave(self, subscription: JetStreamContext.PushSubscription) -> None:
        try:
            await subscription.unsubscribe()
        except BUS_ERRORS as error:
            log.debug("subscription already gone", error=str(error))
