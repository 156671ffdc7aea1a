"""Batches too small to compare within are joined with the next ones of the same router.

A batch of a single request says nothing: it is of one version. So batches of one router, one stratum and one revision
of the route are one factor until they hold `LEAST` requests. Within them the share is the same, and how many there are
decides when the factor ends, never which version they went to or how they ended; so, whatever the rate does meanwhile,
the bad ones among them fall to the candidate as if drawn, and the bound holds (sampling without replacement is the
milder of the two: Hoeffding 1963). Batches of different routers are never summed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from moorage_common.contracts.signals import SignalBatch
from moorage_registry.rollouts.judge.share import Counts

LEAST = 20
MOST_OPEN = 256

Factor = Mapping[str, Counts]
"""Counts by signal that are compared with each other, and with nothing else."""


@dataclass
class _Open:
    revision: int
    requests: int = 0
    factor: dict[str, Counts] = field(default_factory=dict)

    def add(self, requests: int, factor: Factor) -> None:
        self.requests += requests
        for name, counts in factor.items():
            known = self.factor.get(name)
            self.factor[name] = counts if known is None else _sum(known, counts)


class Blocks:
    """Factors in the making, at most `MOST_OPEN`."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str, str], _Open] = {}

    def add(self, batch: SignalBatch, requests: int, factor: Factor) -> list[Factor]:
        """Take in a batch of so many requests; the factors that are whole now."""
        key = (batch.router, batch.boot, batch.stratum)
        done: list[Factor] = []
        one = self._open.get(key)
        if one is not None and one.revision != batch.revision:
            done.append(self._open.pop(key).factor)
            one = None
        if one is None:
            if len(self._open) >= MOST_OPEN:
                done.append(self._open.pop(next(iter(self._open))).factor)
            one = self._open[key] = _Open(batch.revision)
        one.add(requests, factor)
        if one.requests >= LEAST:
            done.append(self._open.pop(key).factor)
        return done

    def close(self) -> list[Factor]:
        """All that are open: the shares change."""
        done: list[Factor] = [one.factor for one in self._open.values()]
        self._open.clear()
        return done


def _sum(one: Counts, other: Counts) -> Counts:
    return Counts(*(np.add(a, b) for a, b in zip(one, other, strict=True)))
