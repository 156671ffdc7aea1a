"""The signal `errors`: whether the candidate answers badly more often than stable does at the same time."""

import numpy as np

from moorage_common.contracts.rollouts import ErrorsPolicy
from moorage_registry.rollouts.judge.arith import Bools, Floats, Ints
from moorage_registry.rollouts.judge.share import Counts, ShareProcess, reached

RATIOS = (1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)


class Totals:
    """Requests and bad events of both versions so far, of as many runs as are judged at once."""

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self._counts: list[Ints] = [np.zeros(shape, dtype=np.int64) for _ in Counts._fields]

    def add(self, counts: Counts) -> None:
        self._counts = [
            total + np.asarray(one, dtype=np.int64) for total, one in zip(self._counts, counts, strict=True)
        ]

    @property
    def counts(self) -> tuple[Ints, Ints, Ints, Ints]:
        """As `Counts`."""
        n_c, n_s, x_c, x_s = self._counts
        return n_c, n_s, x_c, x_s

    @property
    def rates(self) -> tuple[Floats, Floats]:
        n_c, n_s, x_c, x_s = self._counts
        return x_c / np.maximum(n_c, 1), x_s / np.maximum(n_s, 1)


class ErrorsSignal:
    """Evidence of more errors, and the least that the policy asks for before it acts on it."""

    def __init__(self, policy: ErrorsPolicy, shape: tuple[int, ...] = ()) -> None:
        self._policy = policy
        self.process = ShareProcess(RATIOS, shape=shape)
        self.totals = Totals(shape)

    def fold(self, counts: Counts) -> None:
        self.process.fold(counts)
        self.totals.add(counts)

    def crossed(self, threshold: float) -> Bools:
        """Whether it is to be rolled back, by run."""
        n_c, _, x_c, _ = self.totals.counts
        p_c, p_s = self.totals.rates
        enough = (n_c >= self._policy.least_requests) & (x_c >= self._policy.least_bad)
        return reached(self.process.log_l, threshold) & enough & (p_c - p_s >= self._policy.least_gap_pp / 100.0)
