"""What predictions are sorted into: stable's classes, or the deciles of its numbers."""

from collections import Counter, deque
from dataclasses import dataclass
from typing import Self

import numpy as np

from moorage_common.contracts.rollouts import DriftPolicy
from moorage_common.contracts.signals import Predictions
from moorage_registry.rollouts.judge.arith import Floats, Ints

WINDOW = 2000
LEAST = 200
"""With fewer predictions of stable there are no bins yet."""
CLASSES = 20
ATOM = 0.05


class Recent:
    """Predictions of one version: whole batches, as few as hold `window`."""

    def __init__(self, window: int = WINDOW) -> None:
        self._window = window
        self._batches: deque[Predictions] = deque()
        self.count = 0

    def add(self, predictions: Predictions) -> None:
        count = _count(predictions)
        if not count:
            return
        self._batches.append(predictions)
        self.count += count
        while self.count - _count(self._batches[0]) >= self._window:
            self.count -= _count(self._batches.popleft())

    @property
    def classes(self) -> Counter[str]:
        pooled: Counter[str] = Counter()
        for one in self._batches:
            pooled.update(one.classes)
        return pooled

    @property
    def numbers(self) -> Floats:
        return np.array([number for one in self._batches for number in one.numbers], dtype=np.float64)

    def clear(self) -> None:
        self._batches.clear()
        self.count = 0


@dataclass(frozen=True)
class Bins:
    """Disjoint bins, all predictions of a kind taken together.

    Attributes:
        names: of classes, the last being all others.
        edges: of numbers, ascending: bin k is from edge k-1 up to below edge k.
        low, high: the declared range of numbers; the last bin is what is outside.
    """

    names: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, stable: Recent, policy: DriftPolicy) -> Self | None:
        """None while fewer than `LEAST` predictions of stable were seen."""
        if stable.count < LEAST:
            return None
        classes = stable.classes
        if 2 * classes.total() >= stable.count:
            most = sorted(classes.items(), key=lambda one: (-one[1], one[0]))[:CLASSES]
            return cls(names=tuple(name for name, _ in most))
        return cls(edges=_edges(stable.numbers), low=policy.low, high=policy.high)

    @property
    def count(self) -> int:
        return len(self.names) + 1 if self.names else len(self.edges) + 1 + self.has_range

    @property
    def has_range(self) -> bool:
        return self.low is not None or self.high is not None

    def sort(self, predictions: Predictions) -> tuple[int, Ints]:
        """How many predictions are of the kind, and how many of them in each bin."""
        if self.names:
            counts = [predictions.classes.get(name, 0) for name in self.names]
            total = sum(predictions.classes.values())
            return total, np.array([*counts, total - sum(counts)], dtype=np.int64)
        numbers = np.array(predictions.numbers, dtype=np.float64)
        outside = self.outside(numbers)
        within = np.searchsorted(np.array(self.edges), numbers[~outside], side="right")
        sorted_in = np.bincount(within, minlength=self.count).astype(np.int64)
        if self.has_range:
            sorted_in[-1] = int(outside.sum())
        return len(numbers), sorted_in

    def outside(self, numbers: Floats) -> "np.typing.NDArray[np.bool_]":
        """Which numbers are out of the declared range."""
        low = -np.inf if self.low is None else self.low
        high = np.inf if self.high is None else self.high
        return np.asarray((numbers < low) | (numbers > high))

    def told(self, position: int) -> str:
        """Of one bin, in words."""
        if self.names:
            return f"class {self.names[position]}" if position < len(self.names) else "other classes"
        if self.has_range and position == self.count - 1:
            return f"out of the range {_or_open(self.low)} to {_or_open(self.high)}"
        low = f"{self.edges[position - 1]:.6g}" if position else None
        high = f"{self.edges[position]:.6g}" if position < len(self.edges) else None
        if low is None:
            return f"below {high}"
        return f"from {low} up" if high is None else f"from {low} to {high}"


def _count(predictions: Predictions) -> int:
    return sum(predictions.classes.values()) + len(predictions.numbers)


def _or_open(end: float | None) -> str:
    return "any" if end is None else f"{end:.6g}"


def _edges(numbers: Floats) -> tuple[float, ...]:
    """Deciles; a value that many predictions have gets a bin of its own."""
    ascending = np.sort(numbers)
    deciles = {float(ascending[len(ascending) * tenth // 10]) for tenth in range(1, 10)}
    values, counts = np.unique(ascending, return_counts=True)
    atoms = {float(value) for value in values[counts >= ATOM * len(ascending)]}
    return tuple(sorted(deciles | atoms | {float(np.nextafter(atom, np.inf)) for atom in atoms}))
