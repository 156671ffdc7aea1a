"""How many GPUs it takes: the least size of a cluster under which less than so much demand is lost."""

from collections.abc import Callable
from dataclasses import dataclass

from moorage_scheduler.simulate.record import Summary

MOST_GROWTH = 16
"""The search gives up at this many times the size it began with."""


@dataclass(frozen=True)
class Sized:
    """What was tried, by number of GPUs, and the least that was enough (None: not even the largest)."""

    tried: dict[int, Summary]
    enough: int | None


def least(run: Callable[[int], Summary], begin: int, step: int, lost_under_pct: float) -> Sized:
    """The least multiple of `step` GPUs with which `run` loses less than `lost_under_pct` per cent of the demand.

    It doubles or halves from `begin` and then bisects, on the understanding that more GPUs do not lose more.
    """
    tried: dict[int, Summary] = {}

    def enough(units: int) -> bool:
        gpus = units * step
        if gpus not in tried:
            tried[gpus] = run(gpus)
        return tried[gpus].lost_pct < lost_under_pct

    high = max(1, -(-begin // step))
    most = high * MOST_GROWTH
    while not enough(high):
        if high >= most:
            return Sized(dict(sorted(tried.items())), None)
        high *= 2
    low = high // 2
    while low > 0 and enough(low):
        high, low = low, low // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return Sized(dict(sorted(tried.items())), high * step)
