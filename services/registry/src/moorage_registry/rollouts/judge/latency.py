"""The signal `latency`: whether more of the candidate's requests are beyond stable's quantiles than of stable's."""

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from moorage_common.contracts.rollouts import LatencyPolicy
from moorage_common.contracts.signals import BUCKET_RATIO, edge_us
from moorage_registry.rollouts.judge.arith import Bools, Floats, Ints, log_mean_exp, threshold
from moorage_registry.rollouts.judge.share import Counts, ShareProcess, reached, together
from moorage_registry.rollouts.judge.totals import Totals

QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.99)
P95 = QUANTILES.index(0.95)
RATIOS = (1.1, 1.25, 1.5, 2.0, 3.0, 5.0)
WINDOW = 2000
"""Thresholds are of so many of stable's last requests."""
REFRESH = 500
"""They are taken anew whenever so many more were judged."""
LEAST = 200
"""With fewer there are no thresholds yet."""


def buckets_up(per_cent: float, *, at_least: bool) -> int:
    """How many log buckets lie between a time and one longer by so many per cent, rounded up or down."""
    exact = math.log1p(per_cent / 100.0) / math.log(BUCKET_RATIO)
    return math.ceil(exact - 1e-9) if at_least else math.floor(exact + 1e-9)


def buckets_later(buckets: Ints, ms: float, *, at_least: bool) -> Ints:
    """The log buckets that begin so many milliseconds after those given, rounded up or down."""
    exact = [math.log(edge_us(int(bucket)) + ms * 1000.0) / math.log(BUCKET_RATIO) for bucket in buckets]
    return np.array([math.ceil(one - 1e-9) if at_least else math.floor(one + 1e-9) for one in exact], dtype=np.int64)


@dataclass(frozen=True)
class Thresholds:
    """From which log bucket on a request is slow, by quantile.

    Attributes:
        stable, candidate: of either version; the candidate's are later by the policy's least difference, in per cent
            or in milliseconds, whichever is more.
        margin: of the candidate, for its safety: p95, later by the policy's margin, likewise.
        beyond_margin: which part of stable's own requests was beyond `margin`.
    """

    stable: Ints
    candidate: Ints
    margin: int
    beyond_margin: float

    @property
    def us(self) -> list[float]:
        """Stable's, in microseconds."""
        return [edge_us(int(bucket)) for bucket in self.stable]

    @property
    def candidate_us(self) -> list[float]:
        return [edge_us(int(bucket)) for bucket in self.candidate]


def thresholds_of(slow: Mapping[int, int], policy: LatencyPolicy) -> Thresholds:
    """Of a histogram of stable's by log bucket: the first edge that a quantile of the requests is below."""
    buckets = sorted(slow)
    below = np.cumsum([slow[bucket] for bucket in buckets])
    total = int(below[-1])
    first = [int(np.searchsorted(below, quantile * total - 1e-9)) for quantile in QUANTILES]
    stable = np.array([buckets[position] + 1 for position in first])
    candidate = np.maximum(
        stable + buckets_up(policy.least_gap_pct, at_least=True),
        buckets_later(stable, policy.least_gap_ms, at_least=True),
    )
    p95 = stable[P95 : P95 + 1]
    margin = max(
        int(p95[0]) + buckets_up(policy.margin_pct, at_least=False),
        int(buckets_later(p95, policy.margin_ms, at_least=False)[0]),
    )
    beyond = sum(count for bucket, count in slow.items() if bucket >= margin)
    return Thresholds(stable, candidate, margin, beyond / total)


class Recent:
    """Histograms of stable's last requests: whole batches, as few as hold `WINDOW`."""

    def __init__(self) -> None:
        self._batches: deque[tuple[int, Mapping[int, int]]] = deque()
        self.requests = 0

    def add(self, slow: Mapping[int, int]) -> None:
        count = sum(slow.values())
        if not count:
            return
        self._batches.append((count, slow))
        self.requests += count
        while self.requests - self._batches[0][0] >= WINDOW:
            self.requests -= self._batches.popleft()[0]

    def thresholds(self, policy: LatencyPolicy) -> Thresholds | None:
        """None while fewer than `LEAST` were seen."""
        if self.requests < LEAST:
            return None
        pooled: Counter[int] = Counter()
        for _, slow in self._batches:
            pooled.update(slow)
        return thresholds_of(pooled, policy)


def beyond(slow: Mapping[int, int], edges: Ints) -> Ints:
    """How many of a histogram are in bucket `edges` or later, by edge."""
    if not slow:
        return np.zeros(len(edges), dtype=np.int64)
    buckets = np.fromiter(slow.keys(), dtype=np.int64, count=len(slow))
    counts = np.fromiter(slow.values(), dtype=np.int64, count=len(slow))
    return np.asarray((counts * (buckets >= edges[:, np.newaxis])).sum(axis=1))


class LatencySignal:
    """Evidence of slower answers: the mean over quantiles. Bad events have the quantiles as their first axis."""

    def __init__(self, policy: LatencyPolicy, shape: tuple[int, ...] = ()) -> None:
        self._process = ShareProcess(RATIOS, shape=(len(QUANTILES), *shape))
        self.totals = Totals(shape, kinds=(len(QUANTILES),))
        self.threshold = threshold(policy.alpha)

    def fold(self, counts: Counts) -> None:
        self._process.fold(counts)
        self.totals.add(counts)

    @property
    def log_e(self) -> Floats:
        return log_mean_exp(self._logs)

    @property
    def log_e_by_quantile(self) -> Floats:
        return self._process.log_e

    def crossed(self) -> Bools:
        """Whether it is to be rolled back, by run."""
        return reached(self._logs, self.threshold)

    @property
    def _logs(self) -> Floats:
        return together(self._process.log_l, axes=2)
