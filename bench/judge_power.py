"""Something is wrong: how many requests it takes to see it. Nothing is: how many it takes to know that it is safe."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from judge_traffic import WEIGHT, Ints, Times

from moorage_common.contracts.rollouts import QualityPolicy, RolloutPolicy, Step
from moorage_common.contracts.signals import SAMPLED
from moorage_registry.rollouts.judge.arith import threshold
from moorage_registry.rollouts.judge.drift import LEAST_TO_COLLAPSE, DriftSignal
from moorage_registry.rollouts.judge.errors import ErrorsSignal
from moorage_registry.rollouts.judge.latency import P95, LatencySignal
from moorage_registry.rollouts.judge.quality import QualitySignal
from moorage_registry.rollouts.judge.safety import LatencySafety, RateSafety
from moorage_registry.rollouts.judge.share import Counts
from moorage_registry.rollouts.judge.watched_answers import LABELS

POLICY = RolloutPolicy()
LOOK = 500
MOST_S = 20_000
Random = np.random.Generator
Bools = npt.NDArray[np.bool_]
Look = Callable[[], Bools]
"""Folds what comes next and says which runs are decided now."""


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        begin: what looks at so many runs.
        looks: at most.
        size: requests (labels, pairs) a look, both versions together.
        designed: median and 99th percentile of the simulation from which the parameters were chosen.
    """

    name: str
    begin: Callable[[int, Random], Look]
    looks: int
    size: int = LOOK
    unit: str = "requests"
    designed: tuple[int, int | None] | None = None

    def measured(self, runs: int, seed: int) -> dict[str, Any]:
        """Its median and 99th percentile over `runs`."""
        first = first_looks(self.begin(runs, np.random.default_rng([77, seed])), runs, self.looks)
        reached = np.where(first > 0, first * self.size, np.iinfo(np.int64).max)
        median, p99 = (int(np.quantile(reached, q, method="inverted_cdf")) for q in (0.5, 0.99))
        most = self.looks * self.size
        designed = self.designed or (None, None)
        return {
            "case": self.name,
            "unit": self.unit,
            "median": f"{median:,}" if median <= most else f"> {most:,}",
            "p99": f"{p99:,}" if p99 <= most else f"> {most:,}",
            "decided %": round(100 * float((first > 0).mean()), 2),
            "within": f"{most:,}",
            "designed": " / ".join("-" if one is None else f"{one:,}" for one in designed),
        }


def first_looks(look: Look, runs: int, looks: int) -> Ints:
    """The look, from 1, at which each run is decided; 0 if never."""
    first = np.zeros(runs, dtype=np.int64)
    for number in range(1, looks + 1):
        now = look()
        first[now & (first == 0)] = number
        if (first > 0).all():
            break
    return first


def errors(base: float, bad: float, size: int = LOOK) -> Callable[[int, Random], Look]:
    def begin(runs: int, random: Random) -> Look:
        signal = ErrorsSignal(POLICY.errors, (runs,))

        def look() -> Bools:
            n_c = random.binomial(size, WEIGHT, runs)
            n_s = size - n_c
            signal.fold(Counts(n_c, n_s, random.binomial(n_c, bad), random.binomial(n_s, base)))
            return signal.crossed()

        return look

    return begin


def slower(factor: float, sigma: float) -> Callable[[int, Random], Look]:
    def begin(runs: int, random: Random) -> Look:
        signal = LatencySignal(POLICY.latency, (runs,))
        times = Times(sigma, runs, random, POLICY.latency)

        def look() -> Bools:
            n_c = random.binomial(LOOK, WEIGHT, runs)
            signal.fold(times.counts(n_c, LOOK - n_c, factor, 1.0))
            return signal.crossed()

        return look

    return begin


def wrong(base: float, bad: float) -> Callable[[int, Random], Look]:
    def begin(runs: int, random: Random) -> Look:
        signal = QualitySignal(POLICY.quality, (runs,))

        def look() -> Bools:
            n_c = random.binomial(LABELS, WEIGHT, runs)
            n_s = LABELS - n_c
            signal.fold(Counts(n_c, n_s, random.binomial(n_c, bad), random.binomial(n_s, base)))
            return signal.crossed()

        return look

    return begin


def wrong_paired(worse: float, better: float, size: int) -> Callable[[int, Random], Look]:
    def begin(runs: int, random: Random) -> Look:
        signal = QualitySignal(QualityPolicy(paired_pct=100), (runs,))

        def look() -> Bools:
            x_c = random.binomial(size, worse, runs)
            signal.fold_pairs(x_c, random.binomial(size - x_c, better / (1.0 - worse)))
            return signal.crossed()

        return look

    return begin


def constant(bins: int) -> Callable[[int, Random], Look]:
    """All of the candidate's predictions are in one bin, stable's evenly in all."""

    def begin(runs: int, random: Random) -> Look:
        signal = DriftSignal(POLICY.drift, bins, (runs,))
        odds = np.full(bins, 1.0 / bins)

        def look() -> Bools:
            n_c = random.binomial(LOOK, WEIGHT, runs)
            n_s = np.minimum(LOOK - n_c, SAMPLED)
            x_c = np.zeros((bins, runs), dtype=np.int64)
            x_c[0] = n_c
            signal.fold(Counts(n_c, n_s, x_c, random.multinomial(n_s, odds).T))
            return np.asarray(signal.crossed() & (signal.totals.n_c >= LEAST_TO_COLLAPSE))

        return look

    return begin


def safe(base: float, bad: float, margin_pp: float, steps: int = 1) -> Callable[[int, Random], Look]:
    """Evidence of safety at one step of so many, by errors alone."""

    def begin(runs: int, random: Random) -> Look:
        safety = RateSafety(margin_pp / 100.0, (runs,))
        none = np.zeros(runs, dtype=np.int64)
        safety.fold(Counts(none, none + 2000, none, random.binomial(2000, base, runs)))
        safety.begin()
        least = threshold(POLICY.beta / steps)

        def look() -> Bools:
            n_c = random.binomial(LOOK, WEIGHT, runs)
            n_s = LOOK - n_c
            safety.fold(Counts(n_c, n_s, random.binomial(n_c, bad), random.binomial(n_s, base)))
            return safety.passed(least)

        return look

    return begin


def as_fast(factor: float, sigma: float) -> Callable[[int, Random], Look]:
    """Evidence that p95 is not longer by the margin, at one step."""

    def begin(runs: int, random: Random) -> Look:
        safety = LatencySafety((runs,))
        times = Times(sigma, runs, random, POLICY.latency)

        def look() -> Bools:
            n_c = random.binomial(LOOK, WEIGHT, runs)
            n_s = LOOK - n_c
            x_s = times.counts(n_c, n_s, factor, 1.0).x_s
            safety.fold(Counts(n_c, n_s, times.late(n_c, factor), np.asarray(x_s)[P95]))
            return np.asarray(safety.log_e >= threshold(POLICY.beta))

        return look

    return begin


@dataclass(frozen=True)
class Unchanged:
    """A whole rollout of an unchanged version by the default policy: each step's least time, and its evidence."""

    a_second: int
    base: float
    sigma: float

    def begin(self, runs: int, random: Random) -> Look:
        total = sum(self._step_s(step, runs, random) for step in POLICY.steps)
        second = 0

        def look() -> Bools:
            nonlocal second
            second += 1
            return np.asarray(total <= second)

        return look

    def _step_s(self, step: Step, runs: int, random: Random) -> Ints:
        errors, latency = RateSafety(POLICY.errors.margin_pp / 100.0, (runs,)), LatencySafety((runs,))
        times = Times(self.sigma, runs, random, POLICY.latency)
        none = np.zeros(runs, dtype=np.int64)
        errors.fold(Counts(none, none + 2000, none, random.binomial(2000, self.base, runs)))
        errors.begin()
        safe_at = threshold(POLICY.beta / len(POLICY.steps))
        took = np.zeros(runs, dtype=np.int64)
        for second in range(1, MOST_S):
            n_c = random.binomial(self.a_second, step.weight / 100.0, runs)
            n_s = self.a_second - n_c
            errors.fold(Counts(n_c, n_s, random.binomial(n_c, self.base), random.binomial(n_s, self.base)))
            slow = np.asarray(times.counts(n_c, n_s, 1.0, 1.0).x_s)[P95]
            latency.fold(Counts(n_c, n_s, times.late(n_c, 1.0), slow))
            passed = errors.passed(safe_at) & (latency.log_e >= safe_at)
            took[passed & (took == 0) & (second >= step.at_least_s)] = second
            if (took > 0).all():
                break
        return took


_ROLLED_BACK = [
    Case("errors 1 % -> 3 %", errors(0.01, 0.03), 80, designed=(10_500, 33_000)),
    Case("errors 0.1 % -> 2.1 %", errors(0.001, 0.021), 80, designed=(4_000, 13_000)),
    Case("errors 1 % -> 1.5 %", errors(0.01, 0.015), 400),
    Case("errors 100 %", errors(0.01, 1.0, 20), 100, size=20, designed=(200, 380)),
    Case("all latency x1.2, sigma 0.35", slower(1.2, 0.35), 400, designed=(5_000, None)),
    Case("all latency x1.2, sigma 0.6", slower(1.2, 0.6), 400, designed=(15_000, None)),
    Case("all latency x1.2, sigma 1.0", slower(1.2, 1.0), 400, designed=(42_750, None)),
    Case("all latency x1.1, sigma 0.35", slower(1.1, 0.35), 600),
    Case("all latency x3, sigma 0.6", slower(3.0, 0.6), 100),
    Case("accuracy 95 -> 92, unpaired", wrong(0.05, 0.08), 3200, LABELS, "labels", (20_000, 52_000)),
    Case("accuracy -3 pp, paired, 3 % disagree", wrong_paired(0.03, 0.0, 5), 1600, 5, "pairs", (375, None)),
    Case("accuracy -3 pp, paired, 6 % disagree", wrong_paired(0.045, 0.015, 5), 1600, 5, "pairs", (825, None)),
    Case("accuracy -3 pp, paired, 12 % disagree", wrong_paired(0.075, 0.045, 5), 2400, 5, "pairs", (1_700, None)),
    Case("constant output, 10 bins", constant(10), 40, designed=(500, None)),
    Case("constant output, 2 classes", constant(2), 40),
]

_PASSED = [
    Case("no change at 1 %, margin 2 pp", safe(0.01, 0.01, 2.0), 400, designed=(8_000, 24_500)),
    Case("no change at 1 %, margin 1 pp", safe(0.01, 0.01, 1.0), 400, designed=(28_000, 70_000)),
    Case("no change at 5 %, margin 2 pp", safe(0.05, 0.05, 2.0), 400, designed=(20_000, 69_000)),
    Case("no change at 0.1 %, margin 2 pp", safe(0.001, 0.001, 2.0), 400, designed=(11_000, 23_500)),
    Case("no change at 0 %, margin 2 pp", safe(0.0, 0.0, 2.0), 400, designed=(4_500, None)),
    Case("no change at 0 %, one of 3 steps", safe(0.0, 0.0, 2.0, 3), 400),
    Case("no change at 1 %, one of 3 steps", safe(0.01, 0.01, 2.0, 3), 400),
    Case("same latency, sigma 0.35, margin 20 %", as_fast(1.0, 0.35), 400),
    Case("same latency, sigma 0.6, margin 20 %", as_fast(1.0, 0.6), 400),
    Case("same latency, sigma 1.0, margin 20 %", as_fast(1.0, 1.0), 400),
]

_AT_MARGIN = [
    Case("1 % -> 3 %, margin 2 pp", safe(0.01, 0.03, 2.0), 200),
    Case("1 % -> 2 %, margin 1 pp", safe(0.01, 0.02, 1.0), 200),
    Case("5 % -> 7 %, margin 2 pp", safe(0.05, 0.07, 2.0), 200),
    Case("0.1 % -> 2.1 %, margin 2 pp", safe(0.001, 0.021, 2.0), 200),
    Case("latency x1.2, sigma 0.35, margin 20 %", as_fast(1.2, 0.35), 200),
    Case("latency x1.2, sigma 1.0, margin 20 %", as_fast(1.2, 1.0), 200),
]

_PROMOTED = [
    Case("500 requests/s, 1 %, sigma 0.6", Unchanged(500, 0.01, 0.6).begin, MOST_S, 1, "seconds"),
    Case("50 requests/s, 1 %, sigma 0.6", Unchanged(50, 0.01, 0.6).begin, MOST_S, 1, "seconds"),
    Case("50 requests/s, 0.1 %, sigma 0.35", Unchanged(50, 0.001, 0.35).begin, MOST_S, 1, "seconds"),
]
GROUPS = {
    group: {case.name: case for case in cases}
    for group, cases in {
        "rolled back": _ROLLED_BACK, "passed": _PASSED, "at the margin": _AT_MARGIN, "promoted": _PROMOTED,
    }.items()
}  # fmt: skip


def measured(group: str, name: str, runs: int) -> dict[str, Any]:
    """One case, by its name: a case cannot be sent to another process."""
    case = GROUPS[group][name]
    runs = min(runs, 500) if group == "promoted" else runs
    return {"decision": group, **case.measured(runs, list(GROUPS[group]).index(name))}
