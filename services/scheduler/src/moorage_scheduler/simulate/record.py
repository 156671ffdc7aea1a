"""What a simulated run is remembered by: a time series, each tenant's waits, and a summary."""

import csv
import json
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple


class Sample(NamedTuple):
    """The cluster at one moment; figures with `_so_far` are counts since the start."""

    at_s: float
    capacity_milli: int
    allocated_milli: int
    waiting: int
    waiting_milli: int
    lost_milli_so_far: int
    offered_milli_so_far: int
    moves_so_far: int


@dataclass(frozen=True)
class Waits:
    """How long a tenant's replicas waited for a place, in seconds, those that are still waiting included.

    `owed`: waits of asks that the tenant's guarantee covered when they came.
    """

    replicas: int
    p50_s: float
    p95_s: float
    longest_s: float
    owed: int
    longest_owed_s: float


@dataclass(frozen=True)
class Summary:
    """A run in figures. Shares are in per cent; lost demand is of the GPU milli asked for by arrivals counted."""

    policy: str
    gpus: int
    arrivals: int
    offered_milli: int
    lost: int
    lost_pct: float
    allocation_pct: float
    moves: int
    moves_per_1000: float
    repaired: int
    reclaimed: int
    preempted: int
    failed_over: int
    still_waiting: int
    waits: dict[str, Waits]


@dataclass
class Record:
    """Fills while a run goes on. Arrivals before `counted_from_s` warm the cluster up and are not counted."""

    counted_from_s: float = 0.0
    sample_s: float = 1.0
    samples: list[Sample] = field(default_factory=list)
    arrivals: int = 0
    offered_milli: int = 0
    lost: int = 0
    lost_milli: int = 0
    moves: int = 0
    repaired: int = 0
    reclaimed: int = 0
    preempted: int = 0
    failed_over: int = 0
    waits: dict[str, list[tuple[float, bool]]] = field(default_factory=lambda: defaultdict(list))
    _next_s: float = 0.0
    _busy: float = 0.0
    _whole: float = 0.0
    _last_s: float = 0.0

    def counts(self, at_s: float) -> bool:
        return at_s >= self.counted_from_s

    def arrived(self, milli: int) -> None:
        self.arrivals += 1
        self.offered_milli += milli

    def gave_up(self, milli: int) -> None:
        self.lost += 1
        self.lost_milli += milli

    def waited(self, tenant: str, seconds: float, *, owed: bool) -> None:
        self.waits[tenant].append((seconds, owed))

    def elapsed(self, to_s: float, capacity: int, allocated: int, waiting: int, waiting_milli: int) -> None:
        """The cluster stood like this until `to_s`."""
        while self._next_s <= to_s:
            self.samples.append(
                Sample(
                    self._next_s,
                    capacity,
                    allocated,
                    waiting,
                    waiting_milli,
                    self.lost_milli,
                    self.offered_milli,
                    self.moves,
                )
            )
            self._next_s += self.sample_s
        counted = max(0.0, to_s - max(self._last_s, self.counted_from_s))
        self._busy += counted * allocated
        self._whole += counted * capacity
        self._last_s = to_s

    def summary(self, policy: str, gpus: int, still_waiting: int) -> Summary:
        return Summary(
            policy=policy,
            gpus=gpus,
            arrivals=self.arrivals,
            offered_milli=self.offered_milli,
            lost=self.lost,
            lost_pct=round(100 * self.lost_milli / max(1, self.offered_milli), 3),
            allocation_pct=round(100 * self._busy / self._whole, 2) if self._whole else 0.0,
            moves=self.moves,
            moves_per_1000=round(1000 * self.moves / max(1, self.arrivals), 2),
            repaired=self.repaired,
            reclaimed=self.reclaimed,
            preempted=self.preempted,
            failed_over=self.failed_over,
            still_waiting=still_waiting,
            waits={tenant: _waits(found) for tenant, found in sorted(self.waits.items())},
        )


def _waits(found: list[tuple[float, bool]]) -> Waits:
    ranked = sorted(seconds for seconds, _ in found)
    owed = [seconds for seconds, owed in found if owed]
    return Waits(
        len(ranked),
        round(_quantile(ranked, 0.5), 3),
        round(_quantile(ranked, 0.95), 3),
        round(ranked[-1], 3),
        len(owed),
        round(max(owed, default=0.0), 3),
    )


def _quantile(ranked: list[float], part: float) -> float:
    """The smallest value with at least `part` of `ranked` at or under it."""
    return ranked[max(0, -int(-part * len(ranked) // 1) - 1)]


def write_series(samples: list[Sample], path: Path) -> None:
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(Sample._fields)
        lines.writerows(samples)


def write_summaries(summaries: list[Summary], path: Path) -> None:
    path.write_text(json.dumps([asdict(one) for one in summaries], indent=1) + "\n")
