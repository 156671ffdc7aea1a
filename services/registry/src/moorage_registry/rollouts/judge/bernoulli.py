"""A sequential test of one rate alone: evidence that it is below a bound.

For p >= p0 and p1 < p0 the mean of (p1/p0)^x ((1-p1)/(1-p0))^(n-x) is at most 1: a likelihood ratio (Wald 1945), and
evidence is the mean over a few p1.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from moorage_registry.rollouts.judge.arith import Floats, ln, log_mean_exp


class BernoulliProcess:
    """Evidence against "the rate is at least `above + margin`", for rates of `above` plus a part of the margin.

    `above` may change from batch to batch, as long as it does not depend on that batch or later ones.
    """

    def __init__(self, margin: float, parts: Sequence[float] = (0.05, 0.2), shape: tuple[int, ...] = ()) -> None:
        self._margin = margin
        self._offsets = np.array([part * margin for part in parts]).reshape(len(parts), *(1 for _ in shape))
        self.log_l: Floats = np.zeros((len(parts), *shape))

    def fold(self, n: npt.ArrayLike, x: npt.ArrayLike, above: npt.ArrayLike) -> None:
        """Take in a batch of n requests, x of them bad."""
        requests, bad = np.asarray(n, dtype=np.float64), np.asarray(x, dtype=np.float64)
        worse, better = self.gains(above)
        self.log_l += bad * worse + (requests - bad) * better

    def gains(self, above: npt.ArrayLike) -> tuple[Floats, Floats]:
        """What a bad and a good request add to each hypothesis."""
        base = np.asarray(above, dtype=np.float64)
        bound = np.minimum(base + self._margin, 0.999)
        less = np.minimum(base + self._offsets, bound)
        return ln(less / bound), ln((1.0 - less) / (1.0 - bound))

    @property
    def log_e(self) -> Floats:
        return log_mean_exp(self.log_l)

    def clear(self) -> None:
        self.log_l[...] = 0.0
