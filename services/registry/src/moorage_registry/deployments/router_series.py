"""The routers' series of one tenant, asked of all of them at once over core NATS."""

import asyncio
import contextlib
from dataclasses import dataclass

from nats.aio.msg import Msg
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.contracts.names import TENANT_SERIES_SUBJECT, TenantId
from moorage_registry.deployments.loads import LoadReports

WAIT_S = 0.5


@dataclass(frozen=True)
class RouterSeries:
    """Families merged over the routers that answer in time; none while the bus is away."""

    bus: Bus
    loads: LoadReports

    async def gather(self, tenant: TenantId) -> list[Metric]:
        """Families in the routers' order, each sample with the label `router`."""
        families: dict[str, Metric] = {}
        with contextlib.suppress(*BUS_ERRORS):
            for answer in await self._answers(tenant):
                for family in text_string_to_metric_families(answer):
                    families.setdefault(family.name, _empty(family)).samples.extend(family.samples)
        return list(families.values())

    async def _answers(self, tenant: TenantId) -> list[str]:
        expected = self.loads.routers()
        if not expected or not self.bus.connected:
            return []
        answers: list[str] = []
        complete = asyncio.Event()

        async def take(message: Msg) -> None:
            answers.append(message.data.decode())
            if len(answers) >= expected:
                complete.set()

        inbox = self.bus.client.new_inbox()
        subscription = await self.bus.client.subscribe(inbox, cb=take)
        try:
            await self.bus.client.publish(TENANT_SERIES_SUBJECT, tenant.encode(), reply=inbox)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(complete.wait(), WAIT_S)
        finally:
            await subscription.unsubscribe()
        return answers


def _empty(family: Metric) -> Metric:
    return Metric(family.name, family.documentation, family.type, family.unit)
