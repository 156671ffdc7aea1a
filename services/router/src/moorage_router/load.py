"""Load reports for schedulers: in-flight, waiting and rate of each version, once a second on core NATS."""

import asyncio
import time

import structlog

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.contracts.load import LoadReport, VersionLoad
from moorage_common.contracts.names import load_subject
from moorage_router.replicas import EndpointTable

log = structlog.get_logger()

REPORT_S = 1.0


def loads_of(endpoints: EndpointTable) -> list[VersionLoad]:
    """Versions with traffic since the last call; their request counts start anew."""
    loads = []
    for replicas in endpoints.all():
        if not (replicas.requests or replicas.in_flight):
            continue
        loads.append(
            VersionLoad(
                tenant=replicas.tenant, model=replicas.model, version=replicas.version,
                in_flight=replicas.in_flight - replicas.parked, queued=replicas.parked, requests=replicas.requests,
            )
        )  # fmt: skip
        replicas.requests = 0
    return loads


class LoadReporter:
    """Reports until cancelled; a report that the bus does not take is lost, the next one follows."""

    def __init__(self, bus: Bus, endpoints: EndpointTable, router: str, boot: str) -> None:
        self._bus = bus
        self._endpoints = endpoints
        self._router = router
        self._boot = boot

    async def run(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            if not self._bus.connected:
                continue
            report = LoadReport(router=self._router, boot=self._boot, at=time.time(), loads=loads_of(self._endpoints))
            try:
                await self._bus.client.publish(load_subject(self._router), report.model_dump_json().encode())
            except BUS_ERRORS as error:
                log.debug("load report lost", error=str(error))
