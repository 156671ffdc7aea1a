"""What a step of a benchmark measured, as numbers. Pure."""

import math
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Ordered = Sequence[float] | NDArray[np.float64]
"""Ascending."""

OVER_QUOTA = "429 "
"""How the name of an error begins that the quota made, not the model."""

_FINE = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
_COARSE = (1.0, 2.0, 5.0)
_BARS_MAX = 14


@dataclass(slots=True)
class Observed:
    """What a step gathers while it runs: seconds of each answered request, and how often what happened."""

    connections: int
    seconds: float = 0.0
    latencies_s: "array[float]" = field(default_factory=lambda: array("d"))
    errors: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Bar:
    """How many answers took longer than the bar before and at most `upto_ms`."""

    upto_ms: float
    count: int


@dataclass(frozen=True, slots=True)
class Step:
    """One number of connections. Latencies are of answers with 200; a percentile that too few answers carry is None.

    Attributes:
        answered: answers with 200.
        errors: by `<status> <code>`, `connection` or `unfinished`; quota refusals among them.
        versions: answers by version.
    """

    connections: int
    seconds: float
    answered: int
    per_second: float
    mean_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    max_ms: float | None
    errors: dict[str, int]
    versions: dict[str, int]
    histogram: list[Bar]

    @property
    def over_quota(self) -> int:
        return sum(count for name, count in self.errors.items() if name.startswith(OVER_QUOTA))

    @property
    def failed(self) -> int:
        return sum(self.errors.values()) - self.over_quota


def percentile(ordered: Ordered, share: float) -> float | None:
    """By nearest rank: the least value that `share` of all do not exceed; None for fewer than 1 / (1 - share)."""
    if len(ordered) < 1 / (1 - share) - 1e-9:
        return None
    return float(ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)])


def _edges(least: float, most: float, steps: Sequence[float]) -> list[float]:
    """Round numbers from the last one below `least` to the first one not below `most`."""
    first, last = math.floor(math.log10(least)) - 1, math.ceil(math.log10(most)) + 1
    every = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    begin = max(at for at, edge in enumerate(every) if edge < least)
    end = min(at for at, edge in enumerate(every) if edge >= most)
    return every[begin : end + 1]


def histogram(ordered_ms: Ordered) -> list[Bar]:
    """Bars of growing width with round ends, so that body and tail both show.

    Args:
        ordered_ms: ascending and positive.
    """
    if not len(ordered_ms):
        return []
    edges = _edges(ordered_ms[0], ordered_ms[-1], _FINE)
    if len(edges) > _BARS_MAX:
        edges = _edges(ordered_ms[0], ordered_ms[-1], _COARSE)
    upto = [bisect_right(ordered_ms, edge) for edge in edges]
    return [Bar(edge, after - before) for edge, (before, after) in zip(edges[1:], pairwise(upto), strict=True)]


def summarize(observed: Observed) -> Step:
    """The numbers of a step."""
    ordered = np.maximum(np.sort(np.array(observed.latencies_s)) * 1e3, 1e-3)
    count = len(ordered)
    return Step(
        connections=observed.connections,
        seconds=observed.seconds,
        answered=count,
        per_second=count / observed.seconds if observed.seconds else 0.0,
        mean_ms=float(np.mean(ordered)) if count else None,
        p50_ms=percentile(ordered, 0.5),
        p90_ms=percentile(ordered, 0.9),
        p99_ms=percentile(ordered, 0.99),
        p999_ms=percentile(ordered, 0.999),
        max_ms=float(ordered[-1]) if count else None,
        errors=dict(observed.errors.most_common()),
        versions=dict(observed.versions.most_common()),
        histogram=histogram(ordered),
    )
