"""A tenant's own series of this router, on request: the registry asks all routers and serves the tenant the whole."""

import asyncio
import contextlib
from collections.abc import Iterable

from nats.aio.msg import Msg
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.contracts.names import TENANT_SERIES_SUBJECT


def series_of(registry: CollectorRegistry, tenant: str, router: str) -> bytes:
    """Prometheus text of the samples that carry `tenant`, each with the label `router`."""
    mine = CollectorRegistry()
    mine.register(_OfTenant(registry, tenant, router))
    return generate_latest(mine)


class _OfTenant(Collector):
    def __init__(self, registry: CollectorRegistry, tenant: str, router: str) -> None:
        self._registry = registry
        self._tenant = tenant
        self._router = router

    def collect(self) -> Iterable[Metric]:
        for family in self._registry.collect():
            samples = [
                sample._replace(labels={**sample.labels, "router": self._router})
                for sample in family.samples
                if sample.labels.get("tenant") == self._tenant
            ]
            if samples:
                chosen = Metric(family.name, family.documentation, family.type, family.unit)
                chosen.samples = samples
                yield chosen


class TenantSeriesResponder:
    """Answers the registry's requests until cancelled; without the bus nobody asks."""

    def __init__(self, bus: Bus, registry: CollectorRegistry, router: str) -> None:
        self._bus = bus
        self._registry = registry
        self._router = router

    async def run(self) -> None:
        await self._bus.wait()
        subscription = await self._bus.client.subscribe(TENANT_SERIES_SUBJECT, cb=self._answer)
        try:
            await asyncio.Event().wait()
        finally:
            with contextlib.suppress(*BUS_ERRORS):
                await subscription.unsubscribe()

    async def _answer(self, message: Msg) -> None:
        with contextlib.suppress(*BUS_ERRORS):
            await message.respond(series_of(self._registry, message.data.decode(), self._router))
