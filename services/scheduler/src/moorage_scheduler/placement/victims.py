"""The cheapest set of replicas whose going covers what is short: exact by branch and bound, by increasing cost.

Cost, in this order: standard replicas, scavengers, how many of them are under the minimum of their version, the highest
priority among them, GPU milli, age of the oldest. So a scavenger goes before anyone else, nobody goes without need, and
of equal sets the youngest goes.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from moorage_scheduler.placement.state import Held

Key = tuple[str, str, int]
"""Tenant, model, version: what has a minimum of replicas."""

Amounts = tuple[int, ...]
"""One figure a dimension of what is short: milli and MiB on a device, CPU, memory, the tenant's cap and share."""

MOST_STEPS = 20_000
"""Steps of one search. Past them the best set found stands; its number of replicas is the least of those looked at."""


class Cost(NamedTuple):
    standard: int
    scavengers: int
    under_minimum: int
    priority: int
    gpu_milli: int
    ages: tuple[float, ...]
    replicas: tuple[str, ...]


@dataclass(frozen=True)
class Candidate:
    """A replica that may go. `gives` is what its going gives of each dimension; `ready` counts for the minimum."""

    replica: str
    held: Held
    gives: Amounts
    gpu_milli: int = 0
    ready: bool = True
    priority: int = 0

    @property
    def scavenger(self) -> bool:
        return self.held.ask.scheduling_class == "scavenger"

    @property
    def key(self) -> Key:
        return key_of(self.held)


def key_of(held: Held) -> Key:
    return (held.ask.tenant, held.ask.model, held.ask.version)


@dataclass(frozen=True)
class Slack:
    """How many standard replicas of each version may go: of all, and of those that are ready.

    `binding` False: more may go where it takes them, but of equal sets that with the fewest of them.
    """

    all: Mapping[Key, int] = field(default_factory=dict)
    ready: Mapping[Key, int] = field(default_factory=dict)
    binding: bool = True

    def allows(self, chosen: Sequence[Candidate]) -> bool:
        return not self.binding or self.under(chosen) == 0

    def under(self, chosen: Sequence[Candidate]) -> int:
        """How many of `chosen` go under their versions' minimums."""
        if not self.all:
            return 0
        going = Counter(one.key for one in chosen if not one.scavenger)
        ready = Counter(one.key for one in chosen if not one.scavenger and one.ready)
        return sum(
            max(0, count - self.all.get(key, count), ready[key] - self.ready.get(key, count))
            for key, count in going.items()
        )


def cost_of(chosen: Sequence[Candidate], under_minimum: int = 0) -> Cost:
    scavengers = sum(one.scavenger for one in chosen)
    return Cost(
        len(chosen) - scavengers,
        scavengers,
        under_minimum,
        max((one.priority for one in chosen if not one.scavenger), default=0),
        sum(one.gpu_milli for one in chosen),
        tuple(-since for since in sorted(one.held.since for one in chosen)),
        tuple(sorted(one.replica for one in chosen)),
    )


@dataclass
class Search:
    """The best set so far over several `cover` calls (nodes, devices).

    Attributes:
        fits: whether the ask really has its place once these are gone.
        slack: what minimums leave.
    """

    fits: Callable[[Sequence[Candidate]], bool]
    slack: Slack
    best: tuple[Candidate, ...] | None = None
    cost: Cost | None = None
    steps: int = 0

    def cover(self, short: Amounts, candidates: Sequence[Candidate], forced: Sequence[Candidate] = ()) -> None:
        """Take the cheapest of `candidates` that, with `forced`, give at least `short` in every dimension."""
        if not forced and self._one_is_the_most(candidates):
            for one in candidates:
                if all(gives >= need for need, gives in zip(short, one.gives, strict=True)):
                    self._take((), [one])
            return
        if not self.slack.allows(forced):
            return
        rest = tuple(need - sum(one.gives[dim] for one in forced) for dim, need in enumerate(short))
        useful = [one for one in candidates if any(n > 0 and g > 0 for n, g in zip(rest, one.gives, strict=True))]
        useful.sort(key=lambda one: (one.priority, -one.held.since, one.replica))
        scavengers = [one for one in useful if one.scavenger]
        standard = [one for one in useful if not one.scavenger]
        most_given = (_prefixes(standard, len(short)), _prefixes(scavengers, len(short)))
        self.steps = 0
        for counts in itertools.product(range(len(standard) + 1), range(len(scavengers) + 1)):
            if self._dearer(forced, counts):
                if counts[1] == 0:
                    return
                continue
            given = (a + b for a, b in zip(most_given[0][counts[0]], most_given[1][counts[1]], strict=True))
            if any(need > most for need, most in zip(rest, given, strict=True)):
                continue
            if self._choose(rest, (standard, scavengers), counts, list(forced)):
                return
            if self.steps > MOST_STEPS:
                self._greedy(rest, [*scavengers, *standard], list(forced))
                return

    def _one_is_the_most(self, candidates: Sequence[Candidate]) -> bool:
        """Whether, next to the best so far, only sets of one of `candidates` can be as cheap."""
        if self.cost is None or self.cost.standard + self.cost.scavengers != 1:
            return False
        return self.cost.standard == 0 or not any(one.scavenger for one in candidates)

    def _dearer(self, forced: Sequence[Candidate], counts: tuple[int, int]) -> bool:
        if self.cost is None:
            return False
        scavengers = sum(one.scavenger for one in forced)
        return (len(forced) - scavengers + counts[0], scavengers + counts[1]) > self.cost[:2]

    def _choose(
        self,
        rest: Amounts,
        pools: tuple[list[Candidate], list[Candidate]],
        counts: tuple[int, int],
        chosen: list[Candidate],
    ) -> bool:
        """Try every choice of `counts` from `pools`; True when one was accepted, here or before at no more cost."""
        found = False
        most = tuple(_suffixes(pool, len(rest)) for pool in pools)

        def descend(pool: int, start: int, left: int, rest: Amounts) -> None:
            nonlocal found
            if self.steps > MOST_STEPS:
                return
            self.steps += 1
            if left == 0 and pool == 0:
                descend(1, 0, counts[1], rest)
                return
            if left == 0:
                found = self._take(rest, chosen) or found
                return
            later = most[1][0] if pool == 0 else None
            for at in range(start, len(pools[pool]) - left + 1):
                here = most[pool][at]
                if any(
                    need > left * here[dim] + (counts[1] * later[dim] if later else 0) for dim, need in enumerate(rest)
                ):
                    return
                one = pools[pool][at]
                chosen.append(one)
                descend(pool, at + 1, left - 1, _less(rest, one))
                chosen.pop()

        descend(0, 0, counts[0], rest)
        return found

    def _greedy(self, rest: Amounts, ranked: Sequence[Candidate], chosen: list[Candidate]) -> None:
        """First who goes first, until it is enough; then spare whom it does not take."""
        kept = len(chosen)
        for one in ranked:
            if all(need <= 0 for need in rest):
                break
            if self.slack.allows([*chosen, one]):
                chosen.append(one)
                rest = _less(rest, one)
        for one in reversed(chosen[kept:]):
            without = tuple(need + gives for need, gives in zip(rest, one.gives, strict=True))
            if all(need <= 0 for need in without):
                chosen.remove(one)
                rest = without
        self._take(rest, chosen)

    def _take(self, rest: Amounts, chosen: Sequence[Candidate]) -> bool:
        if any(need > 0 for need in rest) or not self.slack.allows(chosen):
            return False
        cost = cost_of(chosen, 0 if self.slack.binding else self.slack.under(chosen))
        if self.cost is not None and cost >= self.cost:
            return True
        if not self.fits(chosen):
            return False
        self.best, self.cost = tuple(chosen), cost
        return True


def _less(rest: Amounts, one: Candidate) -> Amounts:
    return tuple(need - gives for need, gives in zip(rest, one.gives, strict=True))


def _prefixes(pool: Sequence[Candidate], dims: int) -> list[Amounts]:
    """For 0, 1, 2, ... of `pool`, the most that so many can give of each dimension."""
    ranked = [sorted((one.gives[dim] for one in pool), reverse=True) for dim in range(dims)]
    return [tuple(sum(figures[:count]) for figures in ranked) for count in range(len(pool) + 1)]


def _suffixes(pool: Sequence[Candidate], dims: int) -> list[Amounts]:
    """From each position on, the most that one of the rest gives of each dimension."""
    most: list[Amounts] = [(0,) * dims]
    for one in reversed(pool):
        most.append(tuple(max(a, b) for a, b in zip(most[-1], one.gives, strict=True)))
    return most[::-1]
