"""Taking labels: who calls is checked, each id proves what it is about, and 202 is said once JetStream has them."""

import asyncio
import time

import nats.js.errors
import orjson
import structlog

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.contracts.feedback import FeedbackChunk
from moorage_common.contracts.keys import KeyRecord
from moorage_common.contracts.names import feedback_subject
from moorage_common.errors import OverQuota, TooLarge, Unavailable
from moorage_common.streams import ensure_feedback
from moorage_router.bodies import IncomingBody
from moorage_router.feedback.rates import LabelRates
from moorage_router.feedback.reading import BODY_BYTES, Reader, Taken, chunks_of, items_of, nothing_taken
from moorage_router.limits.limiter import Limiter
from moorage_router.metrics import RouterMetrics

log = structlog.get_logger()

_SLICE = 64
"""Items read in one turn of the loop: a fraction of a millisecond."""
_RETRY_AFTER_S = 2.0


class FeedbackService:
    """Labels of one call."""

    def __init__(self, limits: Limiter, bus: Bus, secret: bytes, metrics: RouterMetrics) -> None:
        """`secret` is that of request ids."""
        self._limits = limits
        self._bus = bus
        self._secret = secret
        self._count = metrics.feedback
        self.rates = LabelRates()

    async def take(self, principal: KeyRecord, model: str, body: IncomingBody) -> bytes:
        """Take the labels in `body`; what was accepted and what refused, as JSON. It is one request.

        A version that is not deployed any more is no hindrance: the id proves that it answered.

        Raises:
            OverQuota, BadRequest, TooLarge.
            Unprocessable: no item was good.
            Unavailable: the bus did not take them, or not all; sent again, what it took is no second label.
        """
        limited = self._limits.of(principal.tenant)
        await self._limits.admit(limited, principal, model)
        self._check_rate(principal.tenant)
        limited.in_flight += 1
        try:
            taken = await self._read(Reader(self._secret, principal.tenant, model), body)
            if not taken.feedback:
                raise nothing_taken(taken.refused)
            for chunk in chunks_of(list(taken.feedback.values())):
                await self._publish(chunk)
        finally:
            limited.in_flight -= 1
        self._count.labels("accepted").inc(len(taken.feedback))
        return orjson.dumps(taken.answer())

    def _check_rate(self, tenant: str) -> None:
        """Raises OverQuota."""
        wait_s = self.rates.wait_s(tenant, time.monotonic())
        if wait_s > 0:
            message = f"more than {self.rates.a_second:,.0f} labels a second; send the next ones later"
            raise OverQuota(message, code="labels_over_rate", retry_after_s=wait_s)

    async def _read(self, reader: Reader, body: IncomingBody) -> Taken:
        try:
            items = items_of(await body.read_whole(BODY_BYTES))
        except TooLarge as error:
            if error.code != TooLarge.default_code:
                raise
            raise TooLarge(f"labels of one call are at most {BODY_BYTES} bytes; send fewer at a time") from error
        self.rates.spend(reader.tenant, len(items), time.monotonic())
        taken, now = Taken(), time.time()
        for index, item in enumerate(items):
            if index % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            reader.read(index, item, now, taken)
        self._count.labels("refused").inc(len(taken.refused))
        return taken

    async def _publish(self, chunk: FeedbackChunk) -> None:
        """Until JetStream has it. Raises Unavailable."""
        first = chunk.feedback[0]
        subject, payload = feedback_subject(first.tenant, first.model), chunk.model_dump_json().encode()
        headers = {"Nats-Msg-Id": chunk.chunk_id}
        try:
            if not self._bus.connected:
                raise ConnectionError("no connection to the bus")
            try:
                await self._bus.jetstream().publish(subject, payload, headers=headers)
            except nats.js.errors.NoStreamResponseError:
                await ensure_feedback(self._bus)
                await self._bus.jetstream().publish(subject, payload, headers=headers)
        except BUS_ERRORS as error:
            log.debug("labels not taken by the bus", error=type(error).__name__)
            self._count.labels("away").inc(len(chunk.feedback))
            message = "labels cannot be kept right now; send them again, those that were kept count once"
            raise Unavailable(message, code="feedback_away", retry_after_s=_RETRY_AFTER_S) from error
