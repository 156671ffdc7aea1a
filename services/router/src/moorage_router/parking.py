"""Requests that wait for a replica: how many and how much of them, until when, and what they are told in the end."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from moorage_common.errors import Unavailable
from moorage_common.http1.limits import Limits
from moorage_router.replicas import Host, Outgoing
from moorage_router.routes import ServedVersion
from moorage_router.waking import Waker

PARKED_A_VERSION = 512
PARKED_A_TENANT = 1024
"""20 requests a second through the 25 s that a cold restart of the only host may take."""
TENANT_SHARE = 4
"""A tenant may take one in so many of the bytes that may wait."""
RETRY_AFTER_S = 5.0
"""Said where the scheduler knows no start of such a version."""
_STREAMED = Limits().read_ahead


@dataclass(slots=True, eq=False)
class Parked:
    """One request that waits, and what it waits for."""

    size: int
    waiting: asyncio.Future[None]


@dataclass(slots=True)
class Taken:
    """What waits of one tenant, in the order in which it came."""

    size: int = 0
    parked: dict[Parked, None] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        return len(self.parked)


class Parking:
    """Lets requests to versions without a ready host wait, and has those versions woken."""

    def __init__(self, waker: Waker, most_bytes: int, park_s: float, weight_of: Callable[[str], float]) -> None:
        self._waker = waker
        self._weight_of = weight_of
        self._most_bytes = most_bytes
        self._park_s = park_s
        self._tenants: dict[str, Taken] = defaultdict(Taken)
        self.size = 0
        """Bytes of all that wait."""

    def parked(self, tenant: str) -> int:
        """Requests of `tenant` that wait for a host."""
        taken = self._tenants.get(tenant)
        return taken.requests if taken is not None else 0

    async def host(self, served: ServedVersion, call: Outgoing, deadline: float, avoid: Host | None) -> Host:
        """Wait for a ready host, within the deadline (monotonic seconds). Raises Unavailable."""
        replicas, taken, size = served.replicas, self._tenants[served.tenant], _size(call)
        self._check(served, taken, size)
        ends = min(deadline, time.monotonic() + self._park_s)
        loop = asyncio.get_running_loop()
        parked = Parked(size, loop.create_future())
        taken.parked[parked] = None
        taken.size += size
        self.size += size
        self._waker.wake(served.cluster, replicas)
        try:
            while True:
                await replicas.park(parked.waiting, ends - time.monotonic())
                host = replicas.choose(avoid)
                if host is not None:
                    return host
                parked.waiting = loop.create_future()
        except TimeoutError as error:
            raise no_replica(served, self._waker.ready_in_s(replicas)) from error
        finally:
            self._leave(taken, parked)
            if not taken.parked and self._tenants.get(served.tenant) is taken:
                del self._tenants[served.tenant]
            self._waker.ended(replicas)

    def answered(self, served: ServedVersion) -> None:
        """A request that had waited got its answer."""
        self._waker.answered(served.replicas)

    def _check(self, served: ServedVersion, taken: Taken, size: int) -> None:
        again_s = self._waker.ready_in_s(served.replicas) or RETRY_AFTER_S
        if served.replicas.parked >= PARKED_A_VERSION or taken.requests >= PARKED_A_TENANT:
            message = f"too many requests wait for a replica of {served.model}; try again"
            raise Unavailable(message, code="too_many_waiting", retry_after_s=again_s)
        own_room = taken.size + size <= self._most_bytes // TENANT_SHARE
        if not own_room or not self._make_room(served.tenant, taken, size):
            raise _no_room(again_s)

    def _make_room(self, tenant: str, taken: Taken, size: int) -> bool:
        """Whether there is room now: the newest of whoever has most by weight give way to one who has less."""
        by_weight = (taken.size + size) / self._weight_of(tenant)
        while self.size + size > self._most_bytes:
            largest = max(self._tenants, key=lambda name: self._tenants[name].size / self._weight_of(name))
            held = self._tenants[largest]
            newest = next((one for one in reversed(held.parked) if not one.waiting.done()), None)
            if newest is None or held.size / self._weight_of(largest) <= by_weight:
                return False
            self._leave(held, newest)
            newest.waiting.set_exception(_no_room(RETRY_AFTER_S))
        return True

    def _leave(self, taken: Taken, parked: Parked) -> None:
        if parked in taken.parked:
            del taken.parked[parked]
            taken.size -= parked.size
            self.size -= parked.size


def _no_room(again_s: float) -> Unavailable:
    message = "the requests that wait for replicas are too large in all; try again"
    return Unavailable(message, code="too_many_waiting", retry_after_s=again_s)


def no_replica(served: ServedVersion, ready_in_s: float | None = None) -> Unavailable:
    """503 with the time after which there should be one."""
    message = f"no replica of {served.model} version {served.number} is ready; try again"
    return Unavailable(message, code="no_replica", retry_after_s=RETRY_AFTER_S if ready_in_s is None else ready_in_s)


def _size(call: Outgoing) -> int:
    """Bytes that a waiting call holds; of a long body, what may have been read ahead."""
    return len(call.fields) + (len(call.body) if isinstance(call.body, bytes) else _STREAMED)
