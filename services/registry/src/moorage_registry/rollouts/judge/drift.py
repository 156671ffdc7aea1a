"""The signal `drift`: whether the candidate predicts otherwise than stable does at the same time.

A request is a bad event of the bin its prediction is in, and both questions are asked of each bin: has the candidate
more than `tolerance` times stable's part of it, or stable more than that of the candidate's. Evidence is the mean.
"""

import math
from collections import Counter

import numpy as np

from moorage_common.contracts.rollouts import DriftPolicy
from moorage_common.contracts.signals import OTHER
from moorage_registry.rollouts.judge.arith import Bools, Floats, log_mean_exp, threshold
from moorage_registry.rollouts.judge.bins import Bins, Recent
from moorage_registry.rollouts.judge.share import Counts, ShareProcess, reached, together
from moorage_registry.rollouts.judge.totals import Totals

FURTHER = (1.2, 1.6, 2.4, 4.0, 8.0)
"""Ratios by which bins may have moved, in units of the tolerance."""
COLLAPSED = 0.99
LEAST_TO_COLLAPSE = 20
OUTSIDE, OUTSIDE_OF_STABLE = 0.05, 0.01
BY_CHANCE = 1e-3


class DriftSignal:
    """Evidence of other predictions. Bad events have the bins as their first axis.

    Args:
        shape: of the runs that are judged at once; () for one.
    """

    def __init__(self, policy: DriftPolicy, bins: int, shape: tuple[int, ...] = ()) -> None:
        ratios = [policy.tolerance * ratio for ratio in FURTHER]
        self._more = ShareProcess(ratios, policy.tolerance, shape=(bins, *shape))
        self._fewer = ShareProcess(ratios, policy.tolerance, shape=(bins, *shape))
        self.totals = Totals(shape, kinds=(bins,))
        self.threshold = threshold(policy.alpha)

    def fold(self, counts: Counts) -> None:
        self._more.fold(counts)
        self._fewer.fold(counts.swapped)
        self.totals.add(counts)

    @property
    def log_e(self) -> Floats:
        return log_mean_exp(self._logs)

    @property
    def log_e_by_bin(self) -> Floats:
        """The larger one of both questions."""
        return np.maximum(self._more.log_e, self._fewer.log_e)

    def crossed(self) -> Bools:
        return reached(self._logs, self.threshold)

    @property
    def _logs(self) -> Floats:
        return together(self._more.log_l, self._fewer.log_l, axes=2)


def collapse(stable: Recent, candidate: Recent, bins: Bins) -> str | None:
    """What became of the candidate's last predictions, in words, if they have collapsed and stable's have not."""
    if candidate.count < LEAST_TO_COLLAPSE or not stable.count:
        return None
    if bins.names:
        return _one_class(stable.classes, candidate.classes)
    return _one_number(stable.numbers, candidate.numbers) or _out_of_range(stable.numbers, candidate.numbers, bins)


def _one_class(stable: Counter[str], candidate: Counter[str]) -> str | None:
    if not candidate.total() or not stable.total():
        return None
    name, count = max(candidate.items(), key=lambda one: (one[1], one[0]))
    share, before = count / candidate.total(), stable[name] / stable.total()
    if name == OTHER or share <= COLLAPSED or not _is_news(before, candidate.total()):
        return None
    return f"{100 * share:.3g} % of its predictions are {name}, of stable's {100 * before:.3g} %"


def _one_number(stable: Floats, candidate: Floats) -> str | None:
    values, counts = np.unique(candidate, return_counts=True)
    if not len(values) or not len(stable):
        return None
    top = int(counts.argmax())
    share, before = counts[top] / len(candidate), float((stable == values[top]).mean())
    if share <= COLLAPSED or not _is_news(before, len(candidate)):
        return None
    return f"{100 * share:.3g} % of its predictions are {values[top]:.6g}, of stable's {100 * before:.3g} %"


def _out_of_range(stable: Floats, candidate: Floats, bins: Bins) -> str | None:
    if not bins.has_range or not len(stable) or not len(candidate):
        return None
    share, before = float(bins.outside(candidate).mean()), float(bins.outside(stable).mean())
    if share <= OUTSIDE or before > OUTSIDE_OF_STABLE:
        return None
    return f"{100 * share:.3g} % of its predictions are {bins.told(bins.count - 1)}, of stable's {100 * before:.3g} %"


def _is_news(before: float, count: int) -> bool:
    """Whether so many alike would not come about by chance in stable's predictions."""
    return before <= COLLAPSED and (before == 0.0 or count * math.log(before) <= math.log(BY_CHANCE))
