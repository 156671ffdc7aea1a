"""The engine: a conditional-share e-process on counts of requests and bad events.

Given a batch's requests n_c, n_s and any common rate, the candidate's part of the bad events is at most
th0 = rho0 n_c / (rho0 n_c + n_s) as long as its rate is at most rho0 times the stable version's. An alternative ratio
rho gives th = rho n_c / (rho n_c + n_s), and

    L += x_c ln(th / th0) + x_s ln((1 - th) / (1 - th0))  =  x_c ln(rho / rho0) + (x_c + x_s) ln(S(rho0) / S(rho))

with S(r) = r n_c + n_s. exp(L) is a non-negative supermartingale whatever the rate does over time, and so is the mean
over a grid of ratios: it reaches 1/alpha with a chance of at most alpha, however often one looks (Ville 1939). The
proof is in docs/tenants/how-rollouts-judge.md; after Lindon & Malek, "Anytime-valid inference for multinomial count
data" (2022).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moorage_registry.rollouts.judge.arith import Bools, Floats, ln, log_mean_exp


class Counts(NamedTuple):
    """Of one batch: requests and bad events, candidate's and stable's; numbers, or arrays over runs."""

    n_c: npt.ArrayLike
    n_s: npt.ArrayLike
    x_c: npt.ArrayLike
    x_s: npt.ArrayLike

    @property
    def swapped(self) -> "Counts":
        """With the roles exchanged: for the question whether stable has more than the candidate."""
        return Counts(self.n_s, self.n_c, self.x_s, self.x_c)


class ShareProcess:
    """Evidence against "the candidate's rate is at most `null` times stable's", over a grid of `ratios`.

    With ratios below `null` it is evidence against "at least `null` times".

    Args:
        shape: of the runs that are judged at once; () for one. Leading axes that the requests lack (quantiles, bins)
            share them.
    """

    def __init__(self, ratios: Sequence[float], null: float = 1.0, shape: tuple[int, ...] = ()) -> None:
        self._null = null
        self._shape = shape
        column = (len(ratios), *(1 for _ in shape))
        self._relative = np.array([ratio / null for ratio in ratios]).reshape(column)
        self._gains = ln(self._relative)
        self.log_l: Floats = np.zeros((len(ratios), *shape))

    def fold(self, counts: Counts, null: npt.ArrayLike | None = None) -> None:
        """Take in a batch. One without requests of both versions says nothing.

        Args:
            null: in place of the constructor's, for this batch: the grid keeps its distance. Must not depend on
                this batch or later ones.
        """
        n_c, n_s = self._spread(counts.n_c), self._spread(counts.n_s)
        both = (n_c > 0) & (n_s > 0)
        at_null = self._spread(self._null if null is None else null) * n_c
        shares = np.where(both, (at_null + n_s) / np.where(both, self._relative * at_null + n_s, 1.0), 1.0)
        x_c = np.where(both, np.asarray(counts.x_c, dtype=np.float64), 0.0)
        self.log_l += x_c * self._gains + (x_c + np.asarray(counts.x_s, dtype=np.float64)) * ln(shares)

    @property
    def log_e(self) -> Floats:
        """ln E of each run, the mean over the grid alone."""
        return log_mean_exp(self.log_l)

    def clear(self) -> None:
        self.log_l[...] = 0.0

    def _spread(self, x: npt.ArrayLike) -> Floats:
        """With as many axes as the runs have, so that the grid's axis stays in front."""
        array = np.asarray(x, dtype=np.float64)
        return array.reshape((1,) * (len(self._shape) - array.ndim) + array.shape)


def together(*logs: Floats, axes: int) -> Floats:
    """All of `logs` along one first axis, made of the first `axes` of each: what an average over them is taken of."""
    return np.concatenate([one.reshape(-1, *one.shape[axes:]) for one in logs])


def reached(logs: Floats, threshold: float) -> Bools:
    """Whether the mean of exp(logs) over the first axis is at least exp(threshold), exactly as `log_mean_exp` says.

    A mean is no more than its largest term: only runs whose largest reaches the threshold are worth an exponential.
    """
    near: Bools = np.asarray(logs.max(axis=0) >= threshold)
    if near.ndim == 0:
        return np.asarray(bool(near) and bool(log_mean_exp(logs) >= threshold))
    if near.any():
        near[near] = log_mean_exp(logs[:, near]) >= threshold
    return near
