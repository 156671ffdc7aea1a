"""Metering: sums in memory, a write-ahead log every 100 ms, chunks to the bus every second.

A request is in memory for at most 100 ms. What the log holds survives kill -9: the next boot ships it under the
chunk id it had, so the ledger counts it once.
"""

import asyncio
import time
from dataclasses import dataclass

import structlog

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.contracts.names import usage_subject
from moorage_router.usage_log import Key, Segment, Sums, UsageLog, add

log = structlog.get_logger()

COMMIT_S = 0.1
SHIP_S = 1.0
_HOUR_S = 3600
_FIELDS = 6


@dataclass(slots=True)
class Outcome:
    """One request as metering sees it. `status` 499: the caller went away."""

    status: int = 499
    rows: int = 0
    busy_us: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class UsageMeter:
    """Sums since the last commit, by (tenant, model, version, kid, hour)."""

    def __init__(self) -> None:
        self._sums: Sums = {}
        self._hour = 0
        self._hour_ends = 0.0

    def add(self, tenant: str, model: str, version: int, kid: str, outcome: Outcome) -> None:
        """Count one answered request; what it moved and took counts only when it was answered with 200."""
        now = time.time()
        if now >= self._hour_ends:
            self._hour = int(now) // _HOUR_S * _HOUR_S
            self._hour_ends = self._hour + _HOUR_S
        key: Key = (tenant, model, version, kid, self._hour)
        row = self._sums.get(key)
        if row is None:
            row = self._sums[key] = [0] * _FIELDS
        if outcome.status != 200:
            row[1] += 1
            return
        row[0] += 1
        row[2] += outcome.rows
        row[3] += outcome.bytes_in
        row[4] += outcome.bytes_out
        row[5] += outcome.busy_us

    def drain(self) -> Sums:
        """The sums so far; counting starts anew."""
        sums, self._sums = self._sums, {}
        return sums

    def put_back(self, sums: Sums) -> None:
        """Count what could not be written after all."""
        add(self._sums, sums)


class UsageShipper:
    """Commits and ships until cancelled; `close` commits what is left and tries to ship it."""

    def __init__(self, meter: UsageMeter, usage_log: UsageLog, bus: Bus) -> None:
        self._meter = meter
        self._log = usage_log
        self._bus = bus
        self._turn = asyncio.Lock()

    @property
    def unshipped(self) -> int:
        """Requests in the log that the bus has not acknowledged."""
        return self._log.unshipped

    async def run_commits(self) -> None:
        while True:
            await asyncio.sleep(COMMIT_S)
            await self.commit()

    async def run_shipping(self) -> None:
        while True:
            await asyncio.sleep(SHIP_S)
            if self._bus.connected:
                await self.ship()

    async def commit(self) -> None:
        """Write the sums since the last commit to disk. On a full disk they wait in memory."""
        async with self._turn:
            sums = self._meter.drain()
            if not sums:
                return
            try:
                await asyncio.to_thread(self._log.append, sums)
            except OSError as error:
                log.error("usage log not written, sums kept in memory", error=str(error))
                self._meter.put_back(sums)

    async def ship(self) -> None:
        """Publish what is sealed, oldest first; seal the open segment only when nothing else waits."""
        for segment in self._log.sealed():
            if not await self._publish(segment):
                return
        async with self._turn:
            segment_now = await asyncio.to_thread(self._log.seal)
        if segment_now is not None:
            await self._publish(segment_now)

    async def _publish(self, segment: Segment) -> bool:
        chunk = segment.chunk()
        try:
            await self._bus.jetstream().publish(
                usage_subject(chunk.router), chunk.model_dump_json().encode(), headers={"Nats-Msg-Id": chunk.chunk_id}
            )
        except BUS_ERRORS as error:
            log.debug("usage chunk waits", chunk=chunk.chunk_id, error=str(error))
            return False
        async with self._turn:
            await asyncio.to_thread(self._log.shipped, segment)
        return True

    async def close(self) -> None:
        await self.commit()
        if self._bus.connected:
            await self.ship()
        self._log.close()
