"""What tenants' hosts share, a device or a node's processors, and whose request goes to it next."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from moorage_common.contracts.endpoints import Endpoint
from moorage_common.errors import DeadlineExceeded, Unavailable
from moorage_router.fairness.gradient import Gradient2, Usual
from moorage_router.fairness.queue import FairQueue, Flow, Waiting

Order = Literal["fair", "arrival", "off"]

QUEUED_A_TENANT = 64
QUEUED = 512
INITIAL = 32
LEAST = 8
LEAST_A_HOST = 1
LEAST_OF_BATCHES = 128
"""Where a host forms batches: it gains from what waits in it, and its latency says nothing of being full."""
MOST = 1024
SHARED_S = 5.0
"""For so long after two callers were there a place counts as shared. One alone is not limited."""
_USUAL_COST_S = 0.005
"""Of a version that has not answered yet."""
_COST_SMOOTHING = 0.1

Waiter = asyncio.Future[None]


class Worked:
    """What one version's requests take: `cost_s` in the model, and `usual` from asking to its answer."""

    __slots__ = ("batches", "cost_s", "usual")

    def __init__(self) -> None:
        self.cost_s = 0.0
        self.usual = Usual()
        self.batches = False

    def worked(self, busy_s: float) -> None:
        """One was this long in the model."""
        self.cost_s = busy_s if not self.cost_s else self.cost_s + (busy_s - self.cost_s) * _COST_SMOOTHING


@dataclass(slots=True)
class Counts:
    """Requests by tenant, of all places: those that waited their turn, and those shed from full queues."""

    waited: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    overloaded: dict[str, int] = field(default_factory=lambda: defaultdict(int))


class Asking(Protocol):
    """A request at the door of a place.

    Attributes:
        kid: the caller.
        kept: it waited for a replica before and is not shed here.
    """

    kid: str
    weight: float
    deadline: float

    @property
    def tenant(self) -> str: ...
    @property
    def kept(self) -> bool: ...


class Place:
    """Requests that run in one place and those that wait for it. Kept while hosts are there or requests run."""

    __slots__ = (
        "_by_tenant", "_counts", "_last", "_queue", "_shared_until", "batches", "gradient", "hosts", "name", "running",
    )  # fmt: skip

    def __init__(self, name: str, order: Order, counts: Counts) -> None:
        by_tenant = order == "fair"
        self.name = name
        self.hosts = 0
        self.running = 0
        self.batches = False
        self.gradient = Gradient2(INITIAL, LEAST, MOST)
        self._counts = counts
        self._by_tenant = by_tenant
        self._queue: FairQueue[Waiter] = FairQueue(QUEUED_A_TENANT if by_tenant else QUEUED, QUEUED)
        self._last = ""
        self._shared_until = 0.0

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return self._queue.queued

    @property
    def has_room(self) -> bool:
        """Whether the next one runs at once."""
        return not self._queue.queued and self.running < self.gradient.limit

    def enter(self, asking: Asking, cost_s: float) -> Flow[Waiter] | None:
        """Whose request runs now; None where it has to wait its turn. `leave` follows."""
        queue = self._queue
        flow = queue.flow(asking.tenant if self._by_tenant else "")
        flow.weight = asking.weight
        if asking.kid != self._last:
            if self._last:
                self._shared_until = time.monotonic() + SHARED_S
            self._last = asking.kid
        cost = cost_s or _USUAL_COST_S
        if (queue.queued or self.running >= self.gradient.limit) and not self._may_pass(flow, cost):
            return None
        queue.goes(flow, cost)
        flow.running += 1
        self.running += 1
        return flow

    def _may_pass(self, flow: Flow[Waiter], cost: float) -> bool:
        """Whether one goes though the place is full: where one caller is alone, and for a tenant that has less than
        its share of what runs, and is no further ahead of the others than that share."""
        queue = self._queue
        if not queue.queued and time.monotonic() >= self._shared_until:
            return True
        if flow.queued or not self._by_tenant:
            return False
        weights = sum(one.weight for one in queue.flows() if one.running or one.queued or one is flow)
        share = max(1.0, self.gradient.limit * flow.weight / weights)
        return flow.running < share and flow.finish <= queue.virtual + share * cost / flow.weight

    async def turn(self, asking: Asking, cost_s: float) -> Flow[Waiter]:
        """Wait until it is this request's turn; it runs then.

        Raises:
            Unavailable: too many wait, and this one's tenant has most of them by weight.
            DeadlineExceeded: its turn did not come in time.
        """
        queue = self._queue
        loop = asyncio.get_running_loop()
        waiter: Waiter = loop.create_future()
        flow, caller = (queue.flow(asking.tenant), asking.kid) if self._by_tenant else (queue.flow(""), "")
        waiting = queue.push(flow, caller, cost_s or _USUAL_COST_S, waiter)
        self._counts.waited[asking.tenant] += 1
        victim = queue.shed(waiting, kept=asking.kept)
        if victim is waiting:
            self._counts.overloaded[asking.tenant] += 1
            raise _overloaded()
        if victim is not None and not victim.item.done():
            victim.item.set_exception(_overloaded())
            self._counts.overloaded[victim.flow.name] += 1
        late = loop.call_later(max(0.0, asking.deadline - time.monotonic()), self._late, waiting)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.leave(flow)
            raise
        finally:
            late.cancel()
            queue.remove(waiting)
        return flow

    def leave(self, flow: Flow[Waiter]) -> None:
        """A request of `flow` runs no longer."""
        flow.running -= 1
        self.running -= 1
        if self._queue.queued:
            self._admit()
        elif not self.running:
            self._queue.rest()

    def answered(self, worked: Worked, busy_us: int, asked_at: float) -> None:
        """A host answered what it was asked at `asked_at`: how full the place is. Call it before `leave`."""
        now = time.monotonic()
        took_s = now - asked_at
        if busy_us:
            worked.worked(busy_us * 1e-6)
        usual_s = worked.usual.add(took_s, now)
        gradient = self.gradient
        if worked.batches and not self.batches:
            self.batches = True
            self._bounds()
        gradient.add(took_s, usual_s or took_s, self.running, now)

    def count_hosts(self, change: int) -> None:
        """So many hosts more or fewer are here."""
        self.hosts += change
        self._bounds()

    def queued_by_tenant(self) -> Iterator[tuple[str, int]]:
        return ((flow.name, flow.queued) for flow in self._queue.flows() if flow.queued)

    def _bounds(self) -> None:
        least = max(LEAST, LEAST_A_HOST * self.hosts)
        self.gradient.bound(max(least, LEAST_OF_BATCHES) if self.batches else least)

    def _admit(self) -> None:
        while self.running < self.gradient.limit and (waiting := self._queue.pop()) is not None:
            if waiting.item.done():
                continue
            waiting.item.set_result(None)
            waiting.flow.running += 1
            self.running += 1

    def _late(self, waiting: Waiting[Waiter]) -> None:
        self._queue.remove(waiting)
        if not waiting.item.done():
            message = "no answer within the deadline: the request waited for its turn all the time; send fewer at once"
            waiting.item.set_exception(DeadlineExceeded(message))


def _overloaded() -> Unavailable:
    message = "too many requests wait for what this tenant shares with others; send fewer at once, or try again"
    return Unavailable(message, code="overloaded", retry_after_s=1)


class Places:
    """By what hosts tell of where they are."""

    def __init__(self, order: Order) -> None:
        self.counts = Counts()
        self._order: Order = order
        self._places: dict[str, Place] = {}

    def of(self, endpoint: Endpoint) -> Place | None:
        """Where a host is: its first device, its node's processors, or by itself where it tells of no node."""
        if self._order == "off":
            return None
        name = name_of(endpoint)
        place = self._places.get(name)
        if place is None:
            place = self._places[name] = Place(name, self._order, self.counts)
        return place

    def forget(self, place: Place) -> None:
        """Its last host is gone, perhaps; who still runs or waits there keeps it by itself."""
        if not place.hosts:
            self._places.pop(place.name, None)

    def all(self) -> Iterator[Place]:
        return iter(self._places.values())


def name_of(endpoint: Endpoint) -> str:
    """A place's name, unique among all clusters."""
    if not endpoint.node:
        return f"{endpoint.cluster}/{endpoint.host_id}"
    return f"{endpoint.cluster}/{endpoint.node}/{min(endpoint.devices) if endpoint.devices else 'cpu'}"
