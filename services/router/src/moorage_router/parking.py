"""Requests that wait for a replica: how many and how much of them, until when, and what they are told in the end."""

import time
from collections import defaultdict
from dataclasses import dataclass

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


@dataclass(slots=True)
class Taken:
    """What waits, of one tenant or of all."""

    requests: int = 0
    size: int = 0


class Parking:
    """Lets requests to versions without a ready host wait, and has those versions woken."""

    def __init__(self, waker: Waker, most_bytes: int, park_s: float) -> None:
        self._waker = waker
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
        taken.requests += 1
        taken.size += size
        self.size += size
        self._waker.wake(served.cluster, replicas)
        try:
            while True:
                await replicas.park(ends - time.monotonic())
                host = replicas.choose(avoid)
                if host is not None:
                    return host
        except TimeoutError as error:
            raise no_replica(served, self._waker.ready_in_s(replicas)) from error
        finally:
            taken.requests -= 1
            taken.size -= size
            self.size -= size
            if not taken.requests:
                self._tenants.pop(served.tenant, None)
            self._waker.ended(replicas)

    def answered(self, served: ServedVersion) -> None:
        """A request that had waited got its answer."""
        self._waker.answered(served.replicas)

    def _check(self, served: ServedVersion, taken: Taken, size: int) -> None:
        again_s = self._waker.ready_in_s(served.replicas) or RETRY_AFTER_S
        if served.replicas.parked >= PARKED_A_VERSION or taken.requests >= PARKED_A_TENANT:
            message = f"too many requests wait for a replica of {served.model}; try again"
            raise Unavailable(message, code="too_many_waiting", retry_after_s=again_s)
        if self.size + size > self._most_bytes or taken.size + size > self._most_bytes // TENANT_SHARE:
            message = (
                f"the requests that wait for replicas are too large in all, this one to {served.model} too; try again"
            )
            raise Unavailable(message, code="too_many_waiting", retry_after_s=again_s)


def no_replica(served: ServedVersion, ready_in_s: float | None = None) -> Unavailable:
    """503 with the time after which there should be one."""
    message = f"no replica of {served.model} version {served.number} is ready; try again"
    return Unavailable(message, code="no_replica", retry_after_s=RETRY_AFTER_S if ready_in_s is None else ready_in_s)


def _size(call: Outgoing) -> int:
    """Bytes that a waiting call holds; of a long body, what may have been read ahead."""
    return len(call.fields) + (len(call.body) if isinstance(call.body, bytes) else _STREAMED)
