"""The same traffic by the rules that others document, and by a z-test at every look.

Flagger: success rate of at least 99 % a minute, a fifth failed check rolls back, five passed ones promote
(docs.flagger.app, "Istio Canary Deployments": interval 1m, threshold 5, maxWeight 50, stepWeight 10).
Argo Rollouts: success rate of at least 95 % in five minutes, three failures abort (argo-rollouts.readthedocs.io,
"Analysis & Progressive Delivery": interval 5m, result[0] >= 0.95, failureLimit 3).
Kayenta: 50 points or more of a metric, canary against a baseline of its size; a metric fails if the 98 % interval of
its Mann-Whitney shift lies above a quarter of the shift (spinnaker.io, "Best practices for configuring canary", "How
canary judgment works"; NetflixACAJudge's fraction and confidence level).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from judge_traffic import WEIGHT, Ints

from moorage_common.contracts.rollouts import RolloutPolicy
from moorage_registry.rollouts.judge.errors import ErrorsSignal
from moorage_registry.rollouts.judge.share import Counts

A_SECOND = 50
SECONDS = 3600
OUTAGES, OUTAGE_S, OUTAGE_RATE = 3, (5, 31), 0.5
LEAST_REQUESTS, LEAST_BAD = 10, 3
Z = 2.326348
"""One-sided 1 %: what a rollout of ours may cost."""

Bools = npt.NDArray[np.bool_]
RULES = ("moorage", "z-test each second", "flagger", "argo rollouts", "kayenta, once after an hour")


@dataclass(frozen=True)
class Traffic:
    """An hour of it. `outages` hit both versions alike."""

    name: str
    stable: float
    candidate: float
    outages: bool = False

    @property
    def is_healthy(self) -> bool:
        return self.stable == self.candidate


TRAFFIC = (
    Traffic("0.1 %, healthy", 0.001, 0.001),
    Traffic("1 %, healthy", 0.01, 0.01),
    Traffic("5 %, healthy", 0.05, 0.05),
    Traffic("1 %, healthy, outages of both", 0.01, 0.01, outages=True),
    Traffic("0.1 % -> 2.1 %", 0.001, 0.021),
    Traffic("1 % -> 1.5 %", 0.01, 0.015),
    Traffic("1 % -> 3 %", 0.01, 0.03),
    Traffic("1 % -> 3 %, outages of both", 0.01, 0.03, outages=True),
    Traffic("5 % -> 10 %", 0.05, 0.10),
)


@dataclass(frozen=True)
class Judged:
    """Who was rolled back, by run, and for those after how many seconds."""

    back: Bools
    after_s: Ints

    def told(self) -> dict[str, Any]:
        median = float(np.median(self.after_s[self.back])) if self.back.any() else None
        return {
            "rolled back %": round(100 * float(self.back.mean()), 2),
            "median minutes": None if median is None else round(median / 60, 1),
        }


def compared(traffic: Traffic, runs: int, seed: int) -> dict[str, dict[str, Any]]:
    """By rule."""
    random = np.random.default_rng([99, seed])
    counts = _drawn(traffic, runs, random)
    minute = [one.reshape(runs, SECONDS // 60, 60).sum(axis=2) for one in counts]
    verdicts = {
        "moorage": _ours(counts),
        "z-test each second": _z_test(counts),
        "flagger": _threshold(minute[0], minute[2], every_s=60, least=0.99, failures=5, passes=5),
        "argo rollouts": _threshold(
            *(minute[part].reshape(runs, -1, 5).sum(axis=2) for part in (0, 2)), every_s=300, least=0.95, failures=3
        ),
        "kayenta, once after an hour": _kayenta(minute, random),
    }
    return {name: verdict.told() for name, verdict in verdicts.items()}


def _drawn(traffic: Traffic, runs: int, random: np.random.Generator) -> tuple[Ints, Ints, Ints, Ints]:
    """Requests and bad ones of both versions, as `Counts`, by run and second."""
    n_c = random.binomial(A_SECOND, WEIGHT, (runs, SECONDS)).astype(np.int16)
    n_s = (A_SECOND - n_c).astype(np.int16)
    bad_c = np.full((runs, SECONDS), traffic.candidate, dtype=np.float32)
    bad_s = np.full((runs, SECONDS), traffic.stable, dtype=np.float32)
    at = np.arange(SECONDS)
    for _ in range(OUTAGES if traffic.outages else 0):
        start, length = random.integers(0, SECONDS, (runs, 1)), random.integers(*OUTAGE_S, (runs, 1))
        out = (at >= start) & (at < start + length)
        bad_c[out] = bad_s[out] = OUTAGE_RATE
    x_c, x_s = random.binomial(n_c, bad_c).astype(np.int16), random.binomial(n_s, bad_s).astype(np.int16)
    return n_c, n_s, x_c, x_s


def _seconds(counts: tuple[Ints, Ints, Ints, Ints]) -> Iterator[tuple[int, Counts]]:
    for second in range(SECONDS):
        yield second, Counts(*(one[:, second] for one in counts))


def _ours(counts: tuple[Ints, Ints, Ints, Ints]) -> Judged:
    runs = len(counts[0])
    signal = ErrorsSignal(RolloutPolicy().errors, (runs,))
    back, after = np.zeros(runs, dtype=bool), np.zeros(runs, dtype=np.int64)
    for second, now in _seconds(counts):
        signal.fold(now)
        crossed = signal.crossed() & ~back
        back |= crossed
        after[crossed] = second + 1
    return Judged(back, after)


def _z_test(counts: tuple[Ints, Ints, Ints, Ints]) -> Judged:
    n_c, n_s, x_c, x_s = (np.cumsum(one, axis=1, dtype=np.int32) for one in counts)
    pooled = (x_c + x_s) / (n_c + n_s)
    error = np.sqrt(pooled * (1 - pooled) * (1 / np.maximum(n_c, 1) + 1 / np.maximum(n_s, 1)))
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (x_c / np.maximum(n_c, 1) - x_s / np.maximum(n_s, 1)) / error
    worse = (z > Z) & (n_c >= LEAST_REQUESTS) & (x_c >= LEAST_BAD)
    return Judged(worse.any(axis=1), worse.argmax(axis=1) + 1)


def _threshold(n: Ints, x: Ints, *, every_s: int, least: float, failures: int, passes: int | None = None) -> Judged:
    """Rolled back at so many failed checks, unless so many have passed before."""
    failed = x > (1.0 - least) * n + 1e-9
    bad, good = np.cumsum(failed, axis=1), np.cumsum(~failed, axis=1)
    over = bad >= failures
    if passes is not None:
        over &= good < passes
    return Judged(over.any(axis=1), (over.argmax(axis=1) + 1) * every_s)


def _kayenta(minute: list[Ints], random: np.random.Generator) -> Judged:
    """A baseline of the canary's size is part of stable's traffic."""
    n_c, n_s, x_c, x_s = minute
    runs, points = n_c.shape
    baseline = np.minimum(n_c, n_s)
    x_b = random.hypergeometric(x_s, n_s - x_s, baseline)
    canary, control = x_c / np.maximum(n_c, 1), x_b / np.maximum(baseline, 1)
    low = np.empty(runs)
    middle = np.empty(runs)
    spread = np.sqrt(points * points * (2 * points + 1) / 12)
    rank = max(0, int(points * points / 2 - Z * spread))
    for run in range(runs):
        shifts = np.sort((canary[run][:, np.newaxis] - control[run]).ravel())
        low[run], middle[run] = shifts[rank], np.median(shifts)
    back = low > 0.25 * np.abs(middle)
    return Judged(back, np.full(runs, SECONDS))
