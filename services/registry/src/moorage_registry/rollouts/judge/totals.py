"""Requests and bad events of both versions so far, of as many runs as are judged at once."""

import numpy as np

from moorage_registry.rollouts.judge.arith import Floats, Ints
from moorage_registry.rollouts.judge.share import Counts


class Totals:
    """Sums of `Counts`. The bad events may have leading axes (quantiles, bins) that the requests lack."""

    def __init__(self, shape: tuple[int, ...] = (), kinds: tuple[int, ...] = ()) -> None:
        self.n_c: Ints = np.zeros(shape, dtype=np.int64)
        self.n_s: Ints = np.zeros(shape, dtype=np.int64)
        self.x_c: Ints = np.zeros((*kinds, *shape), dtype=np.int64)
        self.x_s: Ints = np.zeros((*kinds, *shape), dtype=np.int64)

    def add(self, counts: Counts) -> None:
        self.n_c = self.n_c + np.asarray(counts.n_c, dtype=np.int64)
        self.n_s = self.n_s + np.asarray(counts.n_s, dtype=np.int64)
        self.x_c = self.x_c + np.asarray(counts.x_c, dtype=np.int64)
        self.x_s = self.x_s + np.asarray(counts.x_s, dtype=np.int64)

    @property
    def rates(self) -> tuple[Floats, Floats]:
        """Candidate's and stable's; 0 without requests."""
        return self.x_c / np.maximum(self.n_c, 1), self.x_s / np.maximum(self.n_s, 1)
