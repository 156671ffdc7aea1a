"""A sequential sign test on pairs: both versions answered the same request, and one of them worse.

Under "the candidate is no worse" each such pair is the candidate's fault with a chance of a half at most, so that for
q > 1/2 the product of q / (1/2) for its faults and (1 - q) / (1/2) for stable's is a non-negative supermartingale
(Robbins 1970); evidence is the mean over a grid of q.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from moorage_registry.rollouts.judge.arith import Floats, ln, log_mean_exp

CHANCES = (0.55, 0.6, 0.65, 0.7, 0.8, 0.9, 0.97)


class SignProcess:
    """Evidence that the candidate is the worse one of a pair more often than stable is."""

    def __init__(self, chances: Sequence[float] = CHANCES, shape: tuple[int, ...] = ()) -> None:
        column = np.array(chances).reshape(len(chances), *(1 for _ in shape))
        self._worse, self._better = ln(2.0 * column), ln(2.0 * (1.0 - column))
        self.log_l: Floats = np.zeros((len(chances), *shape))

    def fold(self, worse: npt.ArrayLike, better: npt.ArrayLike) -> None:
        """Take in pairs in which the candidate alone, or stable alone, was wrong (or had the greater loss)."""
        of_candidate, of_stable = np.asarray(worse, dtype=np.float64), np.asarray(better, dtype=np.float64)
        self.log_l += of_candidate * self._worse + of_stable * self._better

    @property
    def log_e(self) -> Floats:
        return log_mean_exp(self.log_l)
