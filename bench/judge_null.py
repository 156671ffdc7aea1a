"""No change between the versions: how many rollouts are rolled back all the same, looking every second."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from judge_traffic import Floats, Keys, Kind, Times, seconds

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
KINDS: tuple[Kind, ...] = ("steady", "outages", "ramp", "overdispersed")
SIGMA = 0.6
BINS = 10
WRONG = 0.05
LABELLED = 0.1
SIGNALS = ("errors", "latency", "quality", "drift")


@dataclass(frozen=True)
class Cell:
    """One cell. `unit`: "request", "sticky" (a key counts once), or "sticky, every request counted" to compare."""

    unit: str
    kind: Kind
    base: float
    runs: int
    seed: int

    def measured(self) -> dict[str, Any]:
        """Its false rollbacks."""
        crossed: dict[str, list[Floats]] = {}
        left = self.runs
        chunk = 0
        while left > 0:
            random = np.random.default_rng([self.seed, chunk])
            runs = min(CHUNK, left)
            found = _requests(self, runs, random) if self.unit == "request" else _sticky(self, runs, random)
            for name, by_run in found.items():
                crossed.setdefault(name, []).append(by_run)
            left, chunk = left - runs, chunk + 1
        return _told(self, {name: np.concatenate(parts) for name, parts in crossed.items()})


def cells(runs: int) -> list[Cell]:
    """All; then rates that are noisy by version, and what counting every request of sticky traffic would do."""
    grid = [(unit, kind, base) for unit in ("request", "sticky") for kind in KINDS for base in BASES]
    named = [Cell(unit, kind, base, runs, seed) for seed, (unit, kind, base) in enumerate(grid, start=1)]
    noisy = [Cell("request", "noisy", base, runs, len(grid) + seed) for seed, base in enumerate(BASES, start=1)]
    return [*named, *noisy, Cell("sticky, every request counted", "steady", 0.01, runs, 2 * len(grid))]


def wilson(hits: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of Wilson (1927)."""
    share = hits / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z * np.sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return max(0.0, float(middle - half)), float(middle + half)


def _requests(cell: Cell, runs: int, random: np.random.Generator) -> Mapping[str, Floats]:
    policy = RolloutPolicy()
    errors, latency = ErrorsSignal(policy.errors, (runs,)), LatencySignal(policy.latency, (runs,))
    quality, drift = QualitySignal(policy.quality, (runs,)), DriftSignal(policy.drift, BINS, (runs,))
    times = Times(SIGMA, runs, random, policy.latency)
    crossed = {name: np.zeros(runs, dtype=bool) for name in SIGNALS}
    odds = np.full(BINS, 1.0 / BINS)
    for now in seconds(cell.kind, cell.base, runs, LOOKS, random):
        n_c = random.binomial(now.load, now.weight, runs)
        n_s = now.load - n_c
        errors.fold(Counts(n_c, n_s, random.binomial(n_c, now.bad_c), random.binomial(n_s, now.bad_s)))
        latency.fold(times.counts(n_c, n_s, now.slow_c, now.slow_s))
        told_c, told_s = random.binomial(n_c, LABELLED), random.binomial(n_s, LABELLED)
        quality.fold(Counts(told_c, told_s, random.binomial(told_c, WRONG), random.binomial(told_s, WRONG)))
        seen_c, seen_s = np.minimum(n_c, SAMPLED), np.minimum(n_s, SAMPLED)
        drift.fold(Counts(seen_c, seen_s, random.multinomial(seen_c, odds).T, random.multinomial(seen_s, odds).T))
        for name, signal in zip(SIGNALS, (errors, latency, quality, drift), strict=True):
            crossed[name] |= signal.crossed()
    return crossed


def _sticky(cell: Cell, runs: int, random: np.random.Generator) -> Mapping[str, Floats]:
    """Errors alone: of the other signals sticky traffic gives each key's first request only, one a key and route."""
    errors = ErrorsSignal(RolloutPolicy().errors, (runs,))
    keys = Keys(cell.kind, cell.base, runs, LOOKS, random)
    every = keys.every_request() if cell.unit != "sticky" else None
    crossed = np.zeros(runs, dtype=bool)
    for look in range(LOOKS):
        errors.fold(keys.counts(look) if every is None else next(every))
        crossed |= errors.crossed()
    return {"errors": crossed}


def _told(cell: Cell, crossed: Mapping[str, Floats]) -> dict[str, Any]:
    either = np.zeros(cell.runs, dtype=bool)
    for by_run in crossed.values():
        either |= by_run
    _, upper = wilson(int(either.sum()), cell.runs)
    return {
        "unit": cell.unit,
        "traffic": cell.kind,
        "base": f"{100 * cell.base:g} %",
        "runs": cell.runs,
        **{f"{name} %": round(100 * float(crossed[name].mean()), 3) if name in crossed else "-" for name in SIGNALS},
        "any %": round(100 * float(either.mean()), 3),
        "upper bound %": round(100 * upper, 3),
    }
