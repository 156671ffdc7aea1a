"""The signal `errors`: whether the candidate answers badly more often than stable does at the same time."""

from moorage_common.contracts.rollouts import ErrorsPolicy
from moorage_registry.rollouts.judge.arith import Bools, Floats, threshold
from moorage_registry.rollouts.judge.share import Counts, ShareProcess, reached
from moorage_registry.rollouts.judge.totals import Totals

RATIOS = (1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)


class ErrorsSignal:
    """Evidence of more errors, and the least that the policy asks for before it acts on it.

    Args:
        shape: of the runs that are judged at once; () for one.
    """

    def __init__(self, policy: ErrorsPolicy, shape: tuple[int, ...] = ()) -> None:
        self._policy = policy
        self._process = ShareProcess(RATIOS, shape=shape)
        self.totals = Totals(shape)
        self.threshold = threshold(policy.alpha)

    def fold(self, counts: Counts) -> None:
        self._process.fold(counts)
        self.totals.add(counts)

    @property
    def log_e(self) -> Floats:
        return self._process.log_e

    def crossed(self) -> Bools:
        """Whether it is to be rolled back, by run."""
        seen, least = self.totals, self._policy
        p_c, p_s = seen.rates
        enough = (seen.n_c >= least.least_requests) & (seen.x_c >= least.least_bad)
        return reached(self._process.log_l, self.threshold) & enough & (p_c - p_s >= least.least_gap_pp / 100.0)
