"""No change between the versions: how many rollouts are rolled back all the same, looking every second."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from judge_traffic import Keys, Kind, Times, seconds

from moorage_common.contracts.rollouts import RolloutPolicy
from moorage_common.contracts.signals import SAMPLED
from moorage_registry.rollouts.judge.drift import DriftSignal
from moorage_registry.rollouts.judge.errors import ErrorsSignal
from moorage_registry.rollouts.judge.latency import LatencySignal
from moorage_registry.rollouts.judge.quality import QualitySignal
from moorage_registry.rollouts.judge.share import Counts

LOOKS = 800
CHUNK = 500
BASES = (0.001, 0.01, 0.05)
STEADY: Kind = "steady"
NOISY: Kind = "noisy"
KINDS: tuple[Kind, ...] = (STEADY, "outages", "ramp", "overdispersed")
Bools = npt.NDArray[np.bool_]
SIGMA = 0.6
BINS = 10
WRONG = 0.05
LABELLED = 0.1
SIGNALS = ("errors", "latency", "quality", "drift")


@dataclass(frozen=True)
class Cells:
    """Cells that differ in the base rate alone.

    Routed per request they share what does not depend on it: numbers of requests, latencies, labels, predictions.

    Attributes:
        unit: "request", "sticky" (a key counts once), or "sticky, every request counted" to compare.
    """

    unit: str
    kind: Kind
    bases: tuple[float, ...]
    runs: int
    seed: int

    def measured(self) -> list[dict[str, Any]]:
        """False rollbacks, a cell a row."""
        found = []
        for chunk, start in enumerate(range(0, self.runs, CHUNK)):
            random = np.random.default_rng([self.seed, chunk])
            runs = min(CHUNK, self.runs - start)
            found.append(_requests(self, runs, random) if self.unit == "request" else _sticky(self, runs, random))
        return [
            _told(self, base, {name: np.concatenate([one[base][name] for one in found]) for name in found[0][base]})
            for base in self.bases
        ]


def cells(runs: int) -> list[Cells]:
    """All; rates that are noisy by version; and what counting every request of sticky traffic would do."""
    grid = [("request", kind, BASES) for kind in KINDS] + [("sticky", kind, (one,)) for kind in KINDS for one in BASES]
    more = [("request", NOISY, BASES), ("sticky, every request counted", STEADY, (0.01,))]
    return [Cells(unit, kind, bases, runs, seed) for seed, (unit, kind, bases) in enumerate([*grid, *more], start=1)]


def wilson(hits: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of Wilson (1927)."""
    share = hits / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z * np.sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return max(0.0, float(middle - half)), float(middle + half)


def _requests(cells: Cells, runs: int, random: np.random.Generator) -> Mapping[float, Mapping[str, Bools]]:
    policy = RolloutPolicy()
    errors = {base: ErrorsSignal(policy.errors, (runs,)) for base in cells.bases}
    latency = LatencySignal(policy.latency, (runs,))
    quality, drift = QualitySignal(policy.quality, (runs,)), DriftSignal(policy.drift, BINS, (runs,))
    times = Times(SIGMA, runs, random, policy.latency)
    alike = {name: np.zeros(runs, dtype=bool) for name in SIGNALS[1:]}
    crossed = {base: np.zeros(runs, dtype=bool) for base in cells.bases}
    odds = np.full(BINS, 1.0 / BINS)
    for now in seconds(cells.kind, runs, LOOKS, random):
        n_c = random.binomial(now.load, now.weight, runs)
        n_s = now.load - n_c
        for base, signal in errors.items():
            x_c, x_s = (
                random.binomial(n_c, now.bad(base, now.fails_c)),
                random.binomial(n_s, now.bad(base, now.fails_s)),
            )
            signal.fold(Counts(n_c, n_s, x_c, x_s))
            crossed[base] |= signal.crossed()
        latency.fold(times.counts(n_c, n_s, now.slow_c, now.slow_s))
        told_c, told_s = random.binomial(n_c, LABELLED), random.binomial(n_s, LABELLED)
        quality.fold(Counts(told_c, told_s, random.binomial(told_c, WRONG), random.binomial(told_s, WRONG)))
        seen_c, seen_s = np.minimum(n_c, SAMPLED), np.minimum(n_s, SAMPLED)
        drift.fold(Counts(seen_c, seen_s, random.multinomial(seen_c, odds).T, random.multinomial(seen_s, odds).T))
        for name, one in zip(SIGNALS[1:], (latency, quality, drift), strict=True):
            alike[name] |= one.crossed()
    return {base: {"errors": by_run, **alike} for base, by_run in crossed.items()}


def _sticky(cells: Cells, runs: int, random: np.random.Generator) -> Mapping[float, Mapping[str, Bools]]:
    """Errors alone: of the other signals sticky traffic gives each key's first request only, one a key and route."""
    found = {}
    for base in cells.bases:
        errors = ErrorsSignal(RolloutPolicy().errors, (runs,))
        keys = Keys(cells.kind, base, runs, LOOKS, random)
        every = keys.every_request() if cells.unit != "sticky" else None
        crossed = np.zeros(runs, dtype=bool)
        for look in range(LOOKS):
            errors.fold(keys.counts(look) if every is None else next(every))
            crossed |= errors.crossed()
        found[base] = {"errors": crossed}
    return found


def _told(cells: Cells, base: float, crossed: Mapping[str, Bools]) -> dict[str, Any]:
    either = np.logical_or.reduce(list(crossed.values()))
    _, upper = wilson(int(either.sum()), cells.runs)
    return {
        "unit": cells.unit,
        "traffic": cells.kind,
        "base": f"{100 * base:g} %",
        "runs": cells.runs,
        **{f"{name} %": round(100 * float(crossed[name].mean()), 3) if name in crossed else "-" for name in SIGNALS},
        "any %": round(100 * float(either.mean()), 3),
        "upper bound %": round(100 * upper, 3),
    }
