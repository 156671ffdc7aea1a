"""Whose request is next: start-time fair queueing by tenant and, within a tenant, by caller. Pure.

Goyal, Vin, Cheng, "Start-time fair queuing" (1996). In virtual time a flow's request starts at S = max(V, F) and ends
at F = S + cost / weight; the least S is next; V is the S of the one that went last and, when nothing is left, the
largest F. Several are served at once, so V follows what goes, not what ends: SFQ(D) of Jin, Chase, Kaur (2004). Of two
flows that wait all the while, what they got by weight never differs by more than the largest cost by weight of one
plus that of the other (theorem 1). Tags are kept by flow: of a flow that waits, each next S is the F before it.
"""

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Waiting(Generic[T]):
    """A request that waits. `cost` in any unit, the same for all of a queue."""

    flow: "Flow[T]"
    caller: str
    cost: float
    item: T


@dataclass(slots=True, eq=False)
class _Caller(Generic[T]):
    finish: float
    queue: deque[Waiting[T]] = field(default_factory=deque)


@dataclass(slots=True, eq=False)
class Flow(Generic[T]):
    """A tenant's requests.

    Attributes:
        finish: F of its last one that went.
        start: S of its next one, while some wait.
        running: how many went and have not ended; counted by whoever serves them.
    """

    name: str
    weight: float = 1.0
    finish: float = 0.0
    start: float = 0.0
    running: int = 0
    queued: int = 0
    turn: float = 0.0
    callers: dict[str, _Caller[T]] = field(default_factory=dict)

    def push(self, waiting: Waiting[T]) -> None:
        caller = self.callers.get(waiting.caller)
        if caller is None:
            caller = self.callers[waiting.caller] = _Caller(self.turn)
        elif not caller.queue:
            caller.finish = max(caller.finish, self.turn)
        caller.queue.append(waiting)
        self.queued += 1

    def take(self) -> Waiting[T]:
        """The next one of the caller that got least."""
        caller = min((one for one in self.callers.values() if one.queue), key=lambda one: one.finish)
        waiting = caller.queue.popleft()
        self.turn = caller.finish
        caller.finish += waiting.cost
        self._gone()
        return waiting

    def newest_of_largest(self, arrived: str) -> Waiting[T]:
        """The newest of the caller with most waiting; of equals that of `arrived`."""
        name = max(self.callers, key=lambda one: (len(self.callers[one].queue), one == arrived))
        return self.callers[name].queue[-1]

    def remove(self, waiting: Waiting[T]) -> bool:
        """Whether it waited until now."""
        caller = self.callers.get(waiting.caller)
        if caller is None or waiting not in caller.queue:
            return False
        caller.queue.remove(waiting)
        self._gone()
        return True

    def _gone(self) -> None:
        self.queued -= 1
        if not self.queued:
            self.callers.clear()
            self.turn = 0.0


class FairQueue(Generic[T]):
    """Flows by tenant. At most `most_a_flow` wait of one, `most` of all."""

    __slots__ = ("_flows", "_furthest", "_heap", "_most", "_most_a_flow", "_numbers", "queued", "virtual")

    def __init__(self, most_a_flow: int, most: int) -> None:
        self.virtual = 0.0
        self.queued = 0
        self._furthest = 0.0
        self._most_a_flow = most_a_flow
        self._most = most
        self._flows: dict[str, Flow[T]] = {}
        self._heap: list[tuple[float, int, Flow[T]]] = []
        self._numbers = count()

    def flow(self, name: str) -> Flow[T]:
        """A tenant's, kept while any of its requests waits or runs, or it is ahead of the others."""
        flow = self._flows.get(name)
        if flow is None:
            flow = self._flows[name] = Flow(name)
        return flow

    def flows(self) -> Iterator[Flow[T]]:
        return iter(self._flows.values())

    def goes(self, flow: Flow[T], cost: float) -> None:
        """One of `flow` goes without having waited. V stays below whoever waits."""
        start = flow.finish
        if start < self.virtual:
            start = self.virtual
        elif not self.queued:
            self.virtual = start
        flow.finish = finish = start + cost / flow.weight
        if finish > self._furthest:  # noqa: PLR1730 - on the way of every request, where `max` takes longer
            self._furthest = finish

    def push(self, flow: Flow[T], caller: str, cost: float, item: T) -> Waiting[T]:
        """Let one wait; `shed` says who has to leave for it."""
        waiting = Waiting(flow, caller, cost, item)
        flow.push(waiting)
        self.queued += 1
        if flow.queued == 1:
            flow.start = max(self.virtual, flow.finish)
            heapq.heappush(self._heap, (flow.start, next(self._numbers), flow))
        return waiting

    def shed(self, arrived: Waiting[T], *, kept: bool = False) -> Waiting[T] | None:
        """Who leaves for `arrived`, perhaps itself: of a flow with too many, or of the one with most by weight.

        Args:
            kept: its flow may have more than is usual.
        """
        flow = arrived.flow
        if flow.queued <= self._most_a_flow or kept:
            if self.queued <= self._most or kept:
                return None
            flow = max(self._flows.values(), key=lambda one: (one.queued / one.weight, one is arrived.flow))
        victim = flow.newest_of_largest(arrived.caller)
        self.remove(victim)
        return victim

    def pop(self) -> Waiting[T] | None:
        """The next one, which goes."""
        while self._heap:
            start, _, flow = self._heap[0]
            if not flow.queued or start != flow.start:
                heapq.heappop(self._heap)
                continue
            waiting = flow.take()
            self.queued -= 1
            self.virtual = max(self.virtual, start)
            flow.finish = start + waiting.cost / flow.weight
            self._furthest = max(self._furthest, flow.finish)
            if flow.queued:
                flow.start = flow.finish
                heapq.heapreplace(self._heap, (flow.start, next(self._numbers), flow))
            else:
                heapq.heappop(self._heap)
            return waiting
        return None

    def remove(self, waiting: Waiting[T]) -> None:
        """It waits no longer, and costs its flow nothing."""
        if waiting.flow.remove(waiting):
            self.queued -= 1

    def rest(self) -> None:
        """Nothing waits or runs: all begin alike."""
        self.virtual = self._furthest
        if len(self._flows) > 1:
            self._flows.clear()
