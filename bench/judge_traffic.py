"""Simulated traffic of a rollout: what routers would count, for thousands of rollouts at once.

A look is a second of up to 500 requests. Everything is drawn from one seeded generator a cell; a run is a column.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from moorage_common.contracts.rollouts import LatencyPolicy
from moorage_common.contracts.signals import BUCKET_RATIO
from moorage_registry.rollouts.judge.latency import P95, QUANTILES, WINDOW, buckets_up
from moorage_registry.rollouts.judge.share import Counts

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Kind = Literal["steady", "outages", "ramp", "noisy", "overdispersed"]

REQUESTS = 500
WEIGHT = 0.05
RAMP = (0.05, 0.25, 0.5, 0.95)
OUTAGE_RATE = 0.5
HOSTS = {"candidate": 2, "stable": 6}
PAUSES_EVERY_S, PAUSE_S = 300, 3
NOISE = 0.3


@dataclass(frozen=True)
class Second:
    """What is the case in one second, by run.

    Attributes:
        weight: the candidate's share; load: requests.
        rate: factor on the base rate of both versions.
        fails_c, fails_s: which part of a version's hosts fails, or, where `noisy`, a factor on its rate.
        slow_c, slow_s: factors on the time that an answer takes.
    """

    weight: float = WEIGHT
    load: int = REQUESTS
    rate: float = 1.0
    fails_c: npt.ArrayLike = 0.0
    fails_s: npt.ArrayLike = 0.0
    slow_c: npt.ArrayLike = 1.0
    slow_s: npt.ArrayLike = 1.0
    noisy: bool = False

    def bad(self, base: float, fails: npt.ArrayLike) -> Floats:
        """The chance of a bad answer, where it is `base` when nothing is the matter."""
        usual, part = base * self.rate, np.asarray(fails, dtype=np.float64)
        return np.asarray(usual * part if self.noisy else usual + (OUTAGE_RATE - usual) * part)


def seconds(kind: Kind, runs: int, looks: int, random: np.random.Generator) -> Iterator[Second]:
    """Both versions alike, whatever happens."""
    outage = _outages(runs, looks, random) if kind == "outages" else None
    paused = {arm: np.zeros((hosts, runs), dtype=np.int64) for arm, hosts in HOSTS.items()}
    for look in range(looks):
        part = look / looks
        if kind == "ramp":
            weight, load = RAMP[int(part * len(RAMP))], int(REQUESTS * (0.1 + 0.9 * part))
            yield Second(weight, load, 0.5 + 2.5 * part, slow_c=1.0 + part, slow_s=1.0 + part)
        elif outage is not None:
            out = outage[look].astype(np.float64)
            yield Second(fails_c=out, fails_s=out, slow_c=1.0 + 2.0 * out, slow_s=1.0 + 2.0 * out)
        elif kind == "noisy":
            fails_c, fails_s = (random.gamma(1 / NOISE**2, NOISE**2, runs) for _ in HOSTS)
            slow_c, slow_s = (random.gamma(1 / NOISE**2, NOISE**2, runs) ** 0.1 for _ in HOSTS)
            yield Second(fails_c=fails_c, fails_s=fails_s, slow_c=slow_c, slow_s=slow_s, noisy=True)
        elif kind == "overdispersed":
            of_c, of_s = (_paused(paused[arm], random) for arm in HOSTS)
            yield Second(fails_c=of_c, fails_s=of_s, slow_c=1.0 + 2.0 * of_c, slow_s=1.0 + 2.0 * of_s)
        else:
            yield Second()


def _outages(runs: int, looks: int, random: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Three a run, 5 to 30 seconds long, in which half of everything fails and takes three times as long."""
    out = np.zeros((looks, runs), dtype=bool)
    at = np.arange(looks)[:, np.newaxis]
    for _ in range(3):
        start, length = random.integers(0, looks, runs), random.integers(5, 31, runs)
        out |= (at >= start) & (at < start + length)
    return out


def _paused(left: Ints, random: np.random.Generator) -> Floats:
    """Which part of a version's hosts pauses, each by itself: what the bound does not cover."""
    left -= left > 0
    left[(left == 0) & (random.random(left.shape) < 1 / PAUSES_EVERY_S)] = PAUSE_S
    return np.asarray((left > 0).mean(axis=0))


class Times:
    """Lognormal times, and how many of them are beyond thresholds frozen from `WINDOW` requests of stable."""

    def __init__(self, sigma: float, runs: int, random: np.random.Generator, policy: LatencyPolicy) -> None:
        self._sigma = sigma
        self._random = random
        drawn = np.sort(sigma * random.standard_normal((runs, WINDOW)), axis=1)
        at = [math.ceil(quantile * WINDOW - 1e-9) - 1 for quantile in QUANTILES]
        bucket = math.log(BUCKET_RATIO)
        base = math.log(20_000)
        stable = np.floor((drawn[:, at].T + base) / bucket) + 1
        edges = stable * bucket - base
        self._edges = {
            "stable": edges,
            "candidate": edges + buckets_up(policy.least_gap_pct, at_least=True) * bucket,
            "margin": edges[P95] + buckets_up(policy.margin_pct, at_least=False) * bucket,
        }
        self._known: dict[tuple[str, Any], Floats] = {}

    def counts(self, n_c: Ints, n_s: Ints, slow_c: npt.ArrayLike, slow_s: npt.ArrayLike) -> Counts:
        """Of requests that take `slow` times as long."""
        x_c = self._nested(n_c, self._beyond("candidate", slow_c))
        return Counts(n_c, n_s, x_c, self._nested(n_s, self._beyond("stable", slow_s)))

    def late(self, n_c: Ints, slow_c: npt.ArrayLike) -> Ints:
        """Requests of the candidate beyond stable's p95 and the margin."""
        return np.asarray(self._random.binomial(n_c, self._beyond("margin", slow_c)))

    def _nested(self, n: Ints, chances: Floats) -> Ints:
        """Who is beyond the next threshold is among those beyond this one."""
        left, before, counts = n, np.ones(n.shape), []
        for chance in chances:
            left = self._random.binomial(left, np.minimum(1.0, chance / before))
            before = np.maximum(chance, 1e-300)
            counts.append(left)
        return np.array(counts)

    def _beyond(self, edges: str, slow: npt.ArrayLike) -> Floats:
        """Chances to be beyond thresholds. All that are as fast as ever have the same ones."""
        if np.ndim(slow) == 0 and (edges, slow) in self._known:
            return self._known[edges, slow]
        chances = _upper_tail((self._edges[edges] - np.log(np.asarray(slow, dtype=np.float64))) / self._sigma)
        if np.ndim(slow) == 0:
            self._known = {key: known for key, known in self._known.items() if key[0] != edges}
            self._known[edges, slow] = chances
        return chances


def _upper_tail(z: Floats) -> Floats:
    from scipy.special import ndtr

    return np.asarray(ndtr(-z))


class Keys:
    """Sticky traffic: callers that are given to a version by their key, each with a chance of its own to fail.

    The chances are a Beta distribution with the base rate as its mean: a few keys fail nearly always. A key is asked
    for with a chance of `ACTIVE` a second, and counts once in it, until its first bad answer.
    """

    COUNT = 2000
    ACTIVE = 0.25
    ALIKE = 0.3

    def __init__(self, kind: Kind, base: float, runs: int, looks: int, random: np.random.Generator) -> None:
        self._random = random
        self._looks, self._runs = looks, runs
        self._chance = random.beta(self.ALIKE * base, self.ALIKE * (1.0 - base), (runs, self.COUNT))
        place = random.random((runs, self.COUNT), dtype=np.float32)
        told = list(seconds(kind, runs, looks, random))
        self._active = np.array([self.ACTIVE * one.load / REQUESTS for one in told])
        self._weights = np.array([one.weight for one in told])
        self._ours = place < WEIGHT
        own = np.cumsum(self._active * [one.rate for one in told])
        at = np.searchsorted(own, random.exponential(size=place.shape) / np.maximum(self._chance, 1e-30))
        if kind in {"outages", "overdispersed"}:
            at = np.minimum(at, self._in_common(told, base))
        self._x = {"candidate": self._bad(at, place, True), "stable": self._bad(at, place, False)}
        self._left = {"candidate": self._at_risk(at, place, True), "stable": self._at_risk(at, place, False)}

    def counts(self, look: int) -> Counts:
        """What routers count in a second."""
        (n_c, x_c), (n_s, x_s) = (self._counted(arm, look) for arm in ("candidate", "stable"))
        return Counts(n_c, n_s, x_c, x_s)

    def every_request(self) -> Iterator[Counts]:
        """What they would count if every request did, in steady traffic."""
        n_c, n_s = self._ours.sum(axis=1), (~self._ours).sum(axis=1)
        bad_c = (self._chance * self._ours).sum(axis=1) / np.maximum(n_c, 1)
        bad_s = (self._chance * ~self._ours).sum(axis=1) / np.maximum(n_s, 1)
        for active in self._active:
            asked_c, asked_s = self._random.binomial(n_c, active), self._random.binomial(n_s, active)
            x_c, x_s = self._random.binomial(asked_c, bad_c), self._random.binomial(asked_s, bad_s)
            yield Counts(asked_c, asked_s, x_c, x_s)

    def _counted(self, arm: str, look: int) -> tuple[Ints, Ints]:
        bad = self._x[arm][look]
        return bad + self._random.binomial(np.maximum(self._left[arm][look] - bad, 0), self._active[look]), bad

    def _in_common(self, told: list[Second], base: float) -> Ints:
        """When a key fails by what happens to its version as a whole."""
        at = np.empty(self._ours.shape, dtype=np.int64)
        hazards = [
            np.cumsum([self.ACTIVE * (one.bad(base, fails) - base) for one, fails in arm], axis=0)
            for arm in ([(one, one.fails_c) for one in told], [(one, one.fails_s) for one in told])
        ]
        for run in range(self._runs):
            ours = self._ours[run]
            drawn = self._random.exponential(size=self.COUNT)
            at[run] = np.where(
                ours, np.searchsorted(hazards[0][:, run], drawn), np.searchsorted(hazards[1][:, run], drawn)
            )
        return at

    def _bad(self, at: Ints, place: Floats, ours: bool) -> Ints:
        """First bad answers by look and run, at the version that the key is given to then."""
        fails = at < self._looks
        look = at[fails]
        run = np.broadcast_to(np.arange(self._runs)[:, np.newaxis], at.shape)[fails]
        mine = (place[fails] < self._weights[look]) == ours
        flat = np.bincount(look[mine] * self._runs + run[mine], minlength=self._looks * self._runs)
        return flat.reshape(self._looks, self._runs)

    def _at_risk(self, at: Ints, place: Floats, ours: bool) -> Ints:
        """Keys that have not failed before each look."""
        left = np.empty((self._looks, self._runs), dtype=np.int64)
        for weight in np.unique(self._weights):
            looks = np.flatnonzero(self._weights == weight)
            mine = (place < weight) == ours
            run = np.broadcast_to(np.arange(self._runs)[:, np.newaxis], at.shape)[mine]
            when = np.minimum(at[mine], self._looks)
            gone = np.bincount(when * self._runs + run, minlength=(self._looks + 1) * self._runs)
            gone = gone.reshape(self._looks + 1, self._runs)
            left[looks] = (mine.sum(axis=1) - np.cumsum(gone, axis=0) + gone)[looks]
        return left
