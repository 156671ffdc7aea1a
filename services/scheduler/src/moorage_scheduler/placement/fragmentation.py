"""Fragmentation: how much free GPU the typical requests could not use.

F(node) = sum over typical classes of p * (all idle GPU milli if the class cannot be placed there or is CPU-only, else
the sum of device remainders smaller than its request). Source: Weng et al., "Beware of Fragmentation: Scheduling
GPU-Sharing Workloads with Fragmentation Gradient Descent", USENIX ATC 2023, and its artifact (Apache-2.0).

The idle milli of a node minus F is what is usable of it. For classes of one device that is a sum over devices of a
value that depends on the device's free milli and on which classes still find enough CPU; so F needs two look-ups a
device instead of a loop over classes. All is counted in whole numbers (classes weighted by how often they were asked),
so that equal places score equal to the last bit.
"""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moorage_scheduler.placement.asks import DEVICE_MILLI, Shape

Ints = npt.NDArray[np.int64]

COVERED_PCT = 95
WINDOW = 2000
FIRST_LEARNT = 200
"""So many asks are enough to know the typical classes by."""
Klass = tuple[int, int, int, tuple[str, ...], tuple[tuple[str, int, int], ...]]
"""CPU milli, GPU milli, devices, GPU models, profiles."""


def klass(shape: Shape) -> Klass:
    demand = shape.demand
    return (shape.cpu_milli, demand.milli, demand.devices, demand.models, demand.profiles)


@dataclass(frozen=True)
class Typical:
    """The commonest classes that cover 95 % of what was asked, with how often; none: nothing is known yet."""

    classes: tuple[tuple[Klass, int], ...] = ()

    @staticmethod
    def of(classes: Iterable[Klass]) -> "Typical":
        counted = sorted(Counter(classes).items(), key=lambda item: (item[1], item[0]), reverse=True)
        enough = COVERED_PCT * sum(count for _, count in counted)
        kept: list[tuple[Klass, int]] = []
        covered = 0
        for one, count in counted:
            if covered * 100 >= enough:
                break
            kept.append((one, count))
            covered += count
        return Typical(tuple(kept))

    @property
    def total(self) -> int:
        return sum(count for _, count in self.classes)


class Asked:
    """The classes asked for lately, and when to learn from them anew: when half of them have come since."""

    def __init__(self, classes: Iterable[Klass] = (), since: int = 0) -> None:
        self.classes: deque[Klass] = deque(classes, WINDOW)
        self.since = since

    def observe(self, shape: Shape) -> bool:
        """Count an ask; whether it is time to learn."""
        self.classes.append(klass(shape))
        self.since += 1
        if self.since >= max(FIRST_LEARNT, len(self.classes) // 2):
            self.since = 0
            return True
        return False


class Usable:
    """Tables of what the typical classes can use of a node, weighted by their counts (divide by `total`).

    Attributes:
        total: the sum of all counts.
        flat: int64, usable milli of one device; index `(model * ranks + cpu rank) * 1001 + free milli`.
        several: int64, usable milli by classes of several devices; index `(model * ranks + cpu rank) * width + idle
            whole devices`.
    """

    def __init__(self, typical: Typical, models: Sequence[str], most_devices: int) -> None:
        self.total = typical.total
        self.cpu_steps: Ints = np.array(sorted({one[0] for one, _ in typical.classes}), dtype=np.int64)
        self.ranks = len(self.cpu_steps) + 1
        self.width = most_devices + 1
        single = np.zeros((len(models), self.ranks, DEVICE_MILLI + 1), dtype=np.int64)
        several = np.zeros((len(models), self.ranks, self.width), dtype=np.int64)
        for (cpu, plain_milli, devices, allowed, profiles), count in typical.classes:
            rank = int(np.searchsorted(self.cpu_steps, cpu, side="right"))
            for at, model in enumerate(models):
                if not plain_milli or (allowed and model not in allowed):
                    continue
                milli = next((milli for name, milli, _ in profiles if name == model), plain_milli)
                if devices == 1:
                    single[at, rank:, milli:] += count
                else:
                    several[at, rank:, devices:] += count
        self.flat: Ints = (single * np.arange(DEVICE_MILLI + 1)).ravel()
        self.several: Ints = (several * np.arange(self.width) * DEVICE_MILLI).ravel()

    def row(self, models: Ints, cpu_free: Ints) -> Ints:
        """Index of the table row of nodes with GPU model numbers `models` and so much free CPU. Shape (N,)."""
        row: Ints = models * self.ranks + np.searchsorted(self.cpu_steps, cpu_free, side="right")
        return row

    def of_nodes(self, row: Ints, free: Ints) -> Ints:
        """Usable milli * total of nodes with table rows `row` (N,) and free milli `free` (N, D) within 0..1000."""
        single = self.flat[(row * (DEVICE_MILLI + 1))[:, None] + free].sum(axis=1)
        idle = (free == DEVICE_MILLI).sum(axis=1)
        usable: Ints = single + self.several[row * self.width + idle]
        return usable
