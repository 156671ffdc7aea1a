"""The signal `quality`: whether the candidate is wrong more often than stable, by the labels that come back.

Unpaired, each label judges the version that answered. Paired, where candidate's requests were answered by stable too,
one label judges both, and the answers they share say nothing: the sign test needs far fewer. With both, evidence is
their weighted mean.
"""

import math
from collections import deque

import numpy as np
import numpy.typing as npt

from moorage_common.contracts.rollouts import QualityPolicy
from moorage_registry.rollouts.entries import Label
from moorage_registry.rollouts.judge.arith import Bools, Floats, Ints, ln, log_mean_exp, threshold
from moorage_registry.rollouts.judge.share import Counts, ShareProcess
from moorage_registry.rollouts.judge.sign import SignProcess
from moorage_registry.rollouts.judge.totals import Totals

RATIOS = (1.05, 1.1, 1.2, 1.35, 1.5, 2.0, 3.0)
PAIRED_WEIGHT = 0.8
WINDOW = 2000
LEAST = 50
"""Losses of stable that its p75 is taken from, at least."""


class QualitySignal:
    """Evidence of worse answers.

    Args:
        shape: of the runs that are judged at once; () for one.
    """

    def __init__(self, policy: QualityPolicy, shape: tuple[int, ...] = ()) -> None:
        self._unpaired = ShareProcess(RATIOS, shape=shape)
        self._paired = SignProcess(shape=shape) if policy.paired_pct else None
        self.totals = Totals(shape)
        self.worse: Ints = np.zeros(shape, dtype=np.int64)
        self.better: Ints = np.zeros(shape, dtype=np.int64)
        self.threshold = threshold(policy.alpha)

    def fold(self, counts: Counts) -> None:
        """Labels of both versions' requests, and how many were wrong."""
        self._unpaired.fold(counts)
        self.totals.add(counts)

    def fold_pairs(self, worse: npt.ArrayLike, better: npt.ArrayLike) -> None:
        """Pairs in which one version alone was wrong: the candidate, or stable."""
        if self._paired is not None:
            self._paired.fold(worse, better)
        self.worse = self.worse + np.asarray(worse, dtype=np.int64)
        self.better = self.better + np.asarray(better, dtype=np.int64)

    @property
    def log_e(self) -> Floats:
        if self._paired is None:
            return self._unpaired.log_e
        weighted = [
            self._paired.log_e + ln(2.0 * PAIRED_WEIGHT),
            self._unpaired.log_e + ln(2.0 * (1.0 - PAIRED_WEIGHT)),
        ]
        return log_mean_exp(np.stack(weighted))

    def crossed(self) -> Bools:
        return np.asarray(self.log_e >= self.threshold)


class Losses:
    """Stable's last losses."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=WINDOW)

    def add(self, loss: float) -> None:
        self._last.append(loss)

    def p75(self) -> float | None:
        """None while fewer than `LEAST` were seen."""
        if len(self._last) < LEAST:
            return None
        ascending = sorted(self._last)
        return ascending[3 * len(ascending) // 4]


def is_wrong(label: Label, beyond: float | None) -> bool | None:
    """Whether the answer was wrong; of numbers, whether its loss is beyond `beyond`. None: not known."""
    if label.wrong is not None:
        return label.wrong
    loss = _finite(label.loss)
    return None if loss is None or beyond is None else loss > beyond


def of_pair(label: Label) -> int | None:
    """1: its version answered worse than the other one. -1: better. 0: alike. None: there is no pair."""
    if label.wrong is not None and label.other_wrong is not None:
        return int(label.wrong) - int(label.other_wrong)
    loss, other = _finite(label.loss), _finite(label.other_loss)
    return None if loss is None or other is None else int(loss > other) - int(loss < other)


def _finite(loss: float | None) -> float | None:
    """A loss that JSON cannot hold would not be there in a replay."""
    return loss if loss is not None and math.isfinite(loss) else None
