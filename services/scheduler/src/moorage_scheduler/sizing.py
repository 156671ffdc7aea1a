"""How many warm hosts to keep. Pure.

Enough for the starts that came within one start-up time of a host, at the worst moment of the last ten minutes: for so
long a warm host that was taken is not replaced.
"""

from collections.abc import Sequence
from dataclasses import dataclass

LOOK_BACK_S = 600.0


@dataclass(frozen=True)
class WarmSize:
    """Bounds a node, and what one takes of its memory."""

    least: int = 1
    most: int = 8
    memory_mib: int = 256


def wanted_warm(starts: Sequence[float], startup_s: float, now: float, nodes: int, size: WarmSize) -> int:
    """Warm hosts for each of `nodes`.

    Args:
        starts: when replicas were started, in order; on the clock of `now`, seconds.
        startup_s: how long a warm host takes to become one.
    """
    peak, first = 0, 0
    lately = [at for at in starts if now - at <= LOOK_BACK_S]
    for last, at in enumerate(lately):
        while at - lately[first] > startup_s:
            first += 1
        peak = max(peak, last - first + 1)
    return min(size.most, max(size.least, -(-peak // max(1, nodes))))


def fitting(wanted: int, free_mib: int, size: WarmSize) -> int:
    """As many of `wanted` as a node with `free_mib` beside its replicas has room for."""
    return max(0, min(wanted, free_mib // size.memory_mib))
