"""What was answered, kept for labels: a bounded buffer that ships each second and never holds up a request."""

import asyncio
import secrets
import time
from collections import deque
from itertools import islice

import nats.js.errors
import orjson
import structlog

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.contracts.feedback import Output
from moorage_common.contracts.names import outputs_subject
from moorage_common.contracts.request_id import ulid_of
from moorage_common.streams import ensure_outputs
from moorage_router.metrics import RouterMetrics
from moorage_router.routes import ServedVersion

log = structlog.get_logger()

SHIP_S = 1.0
PAIR_S = 3.0
"""For so long a kept output waits for what another version answers to a copy of its request."""
BUFFER_BYTES = 16 * 1024 * 1024
CHUNK_BYTES = 128 * 1024
"""JSON may make six bytes of one, and a message may have a megabyte."""
_COST_BYTES = 320
"""Of an output in memory and in a message, its values apart."""


class Kept:
    """One kept output. `due` (monotonic): when it leaves whether or not another version's came."""

    __slots__ = ("at", "due", "other", "output", "served", "ulid")

    def __init__(self, ulid: str, served: ServedVersion, output: Output, at: float, due: float) -> None:
        self.ulid = ulid
        self.served = served
        self.output = output
        self.at = at
        self.due = due
        self.other: tuple[int, Output] | None = None

    @property
    def cost(self) -> int:
        other = 0 if self.other is None else len(self.other[1].value)
        return _COST_BYTES + len(self.output.value) + other

    def told(self) -> dict[str, object]:
        """An `AnsweredOutput`."""
        served, output = self.served, self.output
        told: dict[str, object] = {
            "ulid": self.ulid, "tenant": served.tenant, "model": served.model, "version": served.number,
            "at": self.at, "output": {"kind": output.kind, "value": output.value},
        }  # fmt: skip
        if self.other is not None:
            version, other = self.other
            told["other_version"] = version
            told["other"] = {"kind": other.kind, "value": other.value}
        return told


class Outputs:
    """Outputs on their way to the registry, at most `buffer_bytes` of them; the oldest go first when there are more.

    Used from one event loop.
    """

    def __init__(self, bus: Bus, router: str, metrics: RouterMetrics, buffer_bytes: int = BUFFER_BYTES) -> None:
        self._bus = bus
        self._router = router
        self._most = buffer_bytes
        self._boot = secrets.token_hex(8)
        self._chunks = 0
        self._lost = metrics.outputs_lost
        self._paired: dict[str, Kept] = {}
        self._ready: deque[Kept] = deque()
        self.bytes = 0
        """Of all that is kept."""

    @property
    def waiting(self) -> int:
        """Outputs not shipped yet."""
        return len(self._paired) + len(self._ready)

    def answered(self, request_id: str, served: ServedVersion, output: Output, *, paired: bool = False) -> None:
        """Keep what `served` answered. `paired`: another version may answer a copy of the request."""
        now = time.monotonic()
        kept = Kept(ulid_of(request_id), served, output, time.time(), now + PAIR_S if paired else now)
        if paired:
            self._paired[kept.ulid] = kept
        else:
            self._ready.append(kept)
        self._grown(kept.cost)

    def other(self, request_id: str, version: int, output: Output) -> bool:
        """What `version` answered to a copy of a request that was kept within the last PAIR_S; whether one was."""
        kept = self._paired.pop(ulid_of(request_id), None)
        if kept is None:
            return False
        kept.other = version, output
        self._ready.append(kept)
        self._grown(len(output.value))
        return True

    def _grown(self, size: int) -> None:
        """So much more is kept: drop the oldest where it is too much."""
        self.bytes += size
        while self.bytes > self._most:
            dropped = self._ready.popleft() if self._ready else self._paired.pop(next(iter(self._paired)))
            self.bytes -= dropped.cost
            self._lost.inc()

    def _release(self, now: float) -> None:
        """Let go what waited long enough for another version's output."""
        due = [ulid for ulid, kept in self._paired.items() if kept.due <= now]
        for ulid in due:
            self._ready.append(self._paired.pop(ulid))

    async def run(self) -> None:
        """Ship until cancelled."""
        while True:
            await asyncio.sleep(SHIP_S)
            self._release(time.monotonic())
            if self._bus.connected:
                await self.ship()

    async def ship(self) -> None:
        """Publish what is ready, oldest first, until the bus fails."""
        while self._ready:
            part = self._next_chunk()
            try:
                await self._publish([kept.told() for kept in part])
            except BUS_ERRORS as error:
                log.debug("outputs wait", error=type(error).__name__)
                return
            # Some of them may have been dropped meanwhile, from the left, where all of them were.
            shipped = set(map(id, part))
            while self._ready and id(self._ready[0]) in shipped:
                self.bytes -= self._ready.popleft().cost

    def _next_chunk(self) -> list[Kept]:
        part: list[Kept] = []
        size = 0
        for kept in islice(self._ready, CHUNK_BYTES // _COST_BYTES):
            size += kept.cost
            if part and size > CHUNK_BYTES:
                break
            part.append(kept)
        return part

    async def _publish(self, outputs: list[dict[str, object]]) -> None:
        """One `OutputsChunk`. Raises what the bus does; outputs sent again are known by their ids, not the chunk's."""
        self._chunks += 1
        chunk_id = f"{self._router}:{self._boot}:{self._chunks}"
        payload = orjson.dumps({"chunk_id": chunk_id, "outputs": outputs})
        subject, headers = outputs_subject(self._router), {"Nats-Msg-Id": chunk_id}
        try:
            await self._bus.jetstream().publish(subject, payload, headers=headers)
        except nats.js.errors.NoStreamResponseError:
            await ensure_outputs(self._bus)
            await self._bus.jetstream().publish(subject, payload, headers=headers)

    async def close(self) -> None:
        """Ship what is left, where the bus is there."""
        self._release(float("inf"))
        if self._bus.connected:
            await self.ship()
