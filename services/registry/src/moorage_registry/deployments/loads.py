"""Requests in flight by version, from the routers' load reports (core NATS, each second, never stored)."""

import asyncio
from dataclasses import dataclass, field

from nats.aio.msg import Msg
from pydantic import ValidationError

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.clock import Clock
from moorage_common.contracts.load import LoadReport
from moorage_common.contracts.names import TenantId

STALE_S = 5.0


@dataclass
class LoadReports:
    """The last report of each router that reported in the last 5 s."""

    bus: Bus
    clock: Clock
    _reports: dict[str, tuple[float, LoadReport]] = field(default_factory=dict)

    async def run(self) -> None:
        """Listen until cancelled; the subscription outlives reconnects."""
        await self.bus.wait()
        subscription = await self.bus.client.subscribe("load.*", cb=self._take)
        try:
            await asyncio.Event().wait()
        finally:
            try:
                await subscription.unsubscribe()
            except BUS_ERRORS:
                self._reports.clear()

    async def _take(self, message: Msg) -> None:
        try:
            report = LoadReport.model_validate_json(message.data)
        except ValidationError:
            return
        self._reports[report.router] = (self.clock(), report)

    def routers(self) -> int:
        """How many routers reported lately."""
        now = self.clock()
        return sum(now - at < STALE_S for at, _report in self._reports.values())

    def in_flight(self, tenant: TenantId) -> dict[tuple[str, int], int]:
        """By (model, version), over all routers."""
        now = self.clock()
        self._reports = {name: kept for name, kept in self._reports.items() if now - kept[0] < STALE_S}
        counts: dict[tuple[str, int], int] = {}
        for _at, report in self._reports.values():
            for load in report.loads:
                if load.tenant == tenant:
                    place = (load.model, load.version)
                    counts[place] = counts.get(place, 0) + load.in_flight
        return counts
