"""Simulated time: events in the order of their moments; of one moment, in the order they were put."""

import heapq
import itertools
from typing import Generic, TypeVar

T = TypeVar("T")


class Clock(Generic[T]):
    """Holds what is to happen. `now` is the moment of the event taken last, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, T]] = []
        self._count = itertools.count()

    def put(self, at_s: float, event: T) -> None:
        """Have `event` happen at `at_s`, or now if that is past."""
        heapq.heappush(self._due, (max(at_s, self.now), next(self._count), event))

    def take(self) -> T | None:
        """The next event, with `now` moved to it; None when nothing is due any more."""
        if not self._due:
            return None
        self.now, _, event = heapq.heappop(self._due)
        return event
