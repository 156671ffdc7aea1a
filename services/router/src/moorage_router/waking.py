"""Asking a cluster's scheduler to start a version that has no replica, while requests wait for one."""

import asyncio
import time
from dataclasses import dataclass

import structlog
from pydantic import ValidationError

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.contracts.load import Wake, WakeAnswer
from moorage_common.contracts.names import wake_subject
from moorage_router.metrics import RouterMetrics
from moorage_router.replicas import Replicas

log = structlog.get_logger()

ASK_TIMEOUT_S = 2.0
AGAIN_S = 1.0
"""Until the next try after one that nobody answered, and the least between two for one version."""
RENEW_S = 5.0
"""Between wakes that were answered: load reports tell the scheduler meanwhile that requests wait."""
AT_ONCE = 32


@dataclass(slots=True)
class Waking:
    """What is known of one version's start. Times are monotonic seconds.

    Attributes:
        since: when it was first asked for, for a start whose first answer has not come.
        ready_at: when the scheduler said it would be ready; None where it does not know.
    """

    task: asyncio.Task[None] | None = None
    since: float | None = None
    asked_at: float = -1e9
    ready_at: float | None = None


class Waker:
    """One question under way a version; with the bus away nobody is asked and requests go on waiting."""

    def __init__(self, bus: Bus, metrics: RouterMetrics) -> None:
        self._bus = bus
        self._metrics = metrics
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._known: dict[Replicas, Waking] = {}

    def wake(self, cluster: str, replicas: Replicas) -> None:
        """Ask `cluster` for the version, and again every few seconds, until `ended`."""
        known = self._known.setdefault(replicas, Waking())
        if cluster and (known.task is None or known.task.done()):
            known.since = known.since or time.monotonic()
            known.task = asyncio.create_task(self._ask(cluster, replicas, known), name="wake")

    def ended(self, replicas: Replicas) -> None:
        """A request waits no longer; when it was the last, ask no more."""
        known = self._known.get(replicas)
        if known is None or replicas.parked:
            return
        if known.task is not None:
            known.task.cancel()
            known.task = None
        if not replicas.ready:
            known.since = None

    def answered(self, replicas: Replicas) -> None:
        """A request that had waited got its answer."""
        known = self._known.get(replicas)
        if known is not None and known.since is not None:
            self._metrics.wake_to_answer.observe(time.monotonic() - known.since)
            known.since = None

    def ready_in_s(self, replicas: Replicas) -> float | None:
        """Seconds until the version should be ready, as the scheduler said; None where it did not."""
        known = self._known.get(replicas)
        if known is None or known.ready_at is None:
            return None
        return max(0.0, known.ready_at - time.monotonic())

    async def _ask(self, cluster: str, replicas: Replicas, known: Waking) -> None:
        wake = Wake(tenant=replicas.tenant, model=replicas.model, version=replicas.version)
        payload = wake.model_dump_json().encode()
        await asyncio.sleep(known.asked_at + AGAIN_S - time.monotonic())
        while replicas.parked:
            async with self._gate:
                known.asked_at = time.monotonic()
                answer = await self._request(wake_subject(cluster), payload)
            self._metrics.wakes.labels("unanswered" if answer is None else "answered").inc()
            if answer is not None:
                said = answer.ready_in_s
                known.ready_at = None if said is None else time.monotonic() + said
            await asyncio.sleep(AGAIN_S if answer is None else RENEW_S)

    async def _request(self, subject: str, payload: bytes) -> WakeAnswer | None:
        if not self._bus.connected:
            return None
        try:
            message = await self._bus.client.request(subject, payload, timeout=ASK_TIMEOUT_S)
            return WakeAnswer.model_validate_json(message.data)
        except BUS_ERRORS as error:
            log.debug("wake not answered", subject=subject, error=str(error))
        except ValidationError as error:
            log.warning("unreadable answer to a wake", subject=subject, errors=error.error_count())
        return None

    async def close(self) -> None:
        """Ask no more."""
        tasks = [known.task for known in self._known.values() if known.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
