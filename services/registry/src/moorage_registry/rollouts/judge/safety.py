"""Evidence of safety: that the candidate is *not* worse by a margin. Begun anew with every step.

The engine reversed. Of rates (errors, wrong answers): H0 is p_c >= p_s + margin, as a ratio R = (p_s + margin) / p_s,
against smaller ratios. Only bad events move that, and where there are hardly any it stays at 1: so a Bernoulli process
looks at the candidate alone, and evidence is the weighted mean of both. p_s is what stable had until the batch before.
Of latency: H0 is "the candidate's p95 is longer by the margin".
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moorage_registry.rollouts.judge.arith import Bools, Floats, ln, log_mean_exp
from moorage_registry.rollouts.judge.bernoulli import BernoulliProcess
from moorage_registry.rollouts.judge.share import Counts, ShareProcess
from moorage_registry.rollouts.judge.totals import Totals

LESS = (1 / 1.2, 1 / 1.5, 1 / 2.0, 1 / 3.0)
LEAST = 100
"""Requests of stable that its rate is taken from, at least."""
LEAST_BAD = 10
ALONE_WEIGHT = 0.75
"""Of the Bernoulli process in the mean."""
PRIOR = 50.0
"""A candidate's rate is guessed as if so many requests like stable's had been seen before."""


class RateSafety:
    """Of a rate.

    Args:
        margin: a rate, 0.02 for two percentage points.
        shape: of the runs that are judged at once; () for one.
    """

    def __init__(self, margin: float, shape: tuple[int, ...] = ()) -> None:
        self._margin = margin
        self._shares = ShareProcess(LESS, shape=shape)
        self._alone = BernoulliProcess(margin, shape=shape)
        self._known = Totals(shape)
        self._in_step = Totals(shape)

    def fold(self, counts: Counts) -> None:
        """Take in a batch; one without the candidate tells stable's rate."""
        known = self._known.n_s >= LEAST
        rate = self._stable_rate()
        n_c = np.where(known, np.asarray(counts.n_c), 0)
        x_c = np.where(known, np.asarray(counts.x_c), 0)
        # A ratio to a rate that was hardly ever seen means nothing: the Bernoulli process has to do.
        seen = np.where(self._known.x_s >= LEAST_BAD, n_c, 0)
        self._shares.fold(Counts(seen, counts.n_s, x_c, counts.x_s), (rate + self._margin) / rate)
        self._alone.fold(n_c, x_c, rate)
        self._known.add(counts)
        self._in_step.add(counts)

    def begin(self) -> None:
        """A step begins. What is known of stable stays."""
        self._shares.clear()
        self._alone.clear()
        self._in_step = Totals(self._in_step.n_c.shape)

    @property
    def log_e(self) -> Floats:
        """To be held against ln(1/beta)."""
        alone = self._alone.log_e + ln(2.0 * ALONE_WEIGHT)
        return log_mean_exp(np.stack([alone, self._shares.log_e + ln(2.0 * (1.0 - ALONE_WEIGHT))]))

    def passed(self, threshold: float) -> Bools:
        return np.asarray(self.log_e >= threshold)

    def needed(self, threshold: float, per_candidate: float) -> int | None:
        """Requests of the candidate still to come, of one run; None if it does not look like ever passing.

        N = (threshold + ln K - L_k) / g_k for the hypothesis that gets there first, g_k being what a request of the
        candidate adds to L_k on average.

        Args:
            per_candidate: stable's requests for one of the candidate's.
        """
        if self._known.n_s < LEAST:
            return None
        p_s = float(self._stable_rate())
        p_c = _guessed(int(self._in_step.x_c), int(self._in_step.n_c), p_s)
        worse, better = self._alone.gains(p_s)
        ways = [Way(self._alone.log_l, p_c * worse + (1.0 - p_c) * better, ALONE_WEIGHT)]
        if self._known.x_s >= LEAST_BAD and per_candidate > 0:
            ratio = (p_s + self._margin) / p_s
            gains = growth(p_c, p_s * per_candidate, per_candidate, ratio)
            ways.append(Way(self._shares.log_l, gains, 1.0 - ALONE_WEIGHT))
        return soonest(ways, threshold)

    def _stable_rate(self) -> Floats:
        return (self._known.x_s + 0.5) / (self._known.n_s + 1.0)


class LatencySafety:
    """Of p95. `Counts` are of stable's requests beyond its p95 and the candidate's beyond that and the margin."""

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self._shares = ShareProcess(LESS, shape=shape)
        self._in_step = Totals(shape)

    def fold(self, counts: Counts) -> None:
        self._shares.fold(counts)
        self._in_step.add(counts)

    def begin(self) -> None:
        """A step begins."""
        self._shares.clear()
        self._in_step = Totals(self._in_step.n_c.shape)

    @property
    def log_e(self) -> Floats:
        """To be held against ln(1/beta)."""
        return self._shares.log_e

    def needed(self, threshold: float, per_candidate: float, beyond_margin: float) -> int | None:
        """As `RateSafety.needed`.

        Args:
            beyond_margin: which part of stable's own requests is beyond p95 and the margin.
        """
        seen = self._in_step
        p_s = float(seen.rates[1]) if seen.n_s >= LEAST else 0.05
        p_c = _guessed(int(seen.x_c), int(seen.n_c), beyond_margin)
        if per_candidate <= 0:
            return None
        gains = growth(p_c, p_s * per_candidate, per_candidate, 1.0)
        return soonest([Way(self._shares.log_l, gains)], threshold)


def growth(p_c: float, x_s: float, n_s: float, null: float) -> Floats:
    """What a request of the candidate adds to each hypothesis on average, with `n_s` of stable's, `x_s` of them bad."""
    ratios = null * np.array(LESS)
    return np.asarray(p_c * ln(np.array(LESS)) + (p_c + x_s) * ln((null + n_s) / (ratios + n_s)))


class Way(NamedTuple):
    """Hypotheses of one process: their logs, what a request adds to each, and the weight of their mean."""

    logs: Floats
    gains: Floats
    weight: float = 1.0


def soonest(ways: Sequence[Way], threshold: float) -> int | None:
    """Requests until the first hypothesis carries the mean over the threshold by itself."""
    needs = [
        max(0.0, (threshold + math.log(len(way.logs) / way.weight) - float(log)) / float(gain))
        for way in ways
        for log, gain in zip(way.logs, way.gains, strict=True)
        if gain > 0
    ]
    return math.ceil(min(needs)) if needs else None


def _guessed(bad: int, requests: int, like: npt.ArrayLike) -> float:
    return (bad + PRIOR * float(np.asarray(like))) / (requests + PRIOR)
