"""Three tenants, one floods: how long what is guaranteed waits, and whether more is stopped than needed.

`search` and `speech` have guarantees and ask for about what these cover; `batch` has none and asks for three times the
whole cluster. The bound: an ask within its tenant's guarantee waits no longer than the grace, because by then whatever
was borrowed last may be reclaimed. The same arrivals are also served first come, first served, without shares.

    python bench/gpu_fairness.py [--seeds 1 2 3] [--sides simulator]
"""

import argparse
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import report

from moorage_common.contracts.desired import Resources
from moorage_common.contracts.keys import GpuShare
from moorage_scheduler.placement.charges import got_milli
from moorage_scheduler.placement.decisions import Decision, Place, Preempt, Reclaim
from moorage_scheduler.placement.plan import place
from moorage_scheduler.placement.shares import Shares
from moorage_scheduler.placement.state import Ask, ClusterState
from moorage_scheduler.simulate import fleet
from moorage_scheduler.simulate.policies import POLICIES
from moorage_scheduler.simulate.record import Waits
from moorage_scheduler.simulate.run import Setup, simulate
from moorage_scheduler.simulate.synthetic import Stream, arrivals
from moorage_scheduler.simulate.trace import Job, Trace, gpu_milli

GPUS = 64
GRACE_S = 30.0
SHARES = Shares.of(
    {
        "search": [GpuShare(guaranteed_milli=24_000)],
        "speech": [GpuShare(guaranteed_milli=16_000)],
        "batch": [GpuShare(weight=1.0)],
    },
    grace_s=GRACE_S,
)
DEMAND_MILLI = {"search": 18_000, "speech": 12_000, "batch": 3 * GPUS * 1000}
"""What would run on average. The two guaranteed tenants go above their guarantees only by chance."""
LIFE_S = {"search": 1200.0, "speech": 600.0, "batch": 7200.0}
SIZES = ((250, 1), (500, 1), (1000, 1), (1000, 2))
"""GPU milli and devices, as often each."""
UNTIL_S = 6 * 3600.0


@dataclass
class Stopped:
    """What was stopped for others, and how often one fewer would have done too."""

    decisions: int = 0
    replicas: int = 0
    milli: int = 0
    milli_asked: int = 0
    needless: int = 0

    def see(self, state: ClusterState, ask: Ask, decision: Decision) -> None:
        """Try every way of leaving one victim alone: if the ask still fits, the victim was stopped needlessly."""
        if not isinstance(decision, Reclaim | Preempt):
            return
        self.decisions += 1
        self.replicas += len(decision.victims)
        self.milli_asked += gpu_milli(ask)
        for spared in decision.victims:
            held = state.held[spared]
            self.milli += got_milli(held, state.sizes[state.index[held.node]])
            left = {name: one for name, one in state.held.items() if name == spared or name not in decision.victims}
            self.needless += isinstance(place(ClusterState.of(state.sizes, left), ask), Place)


@dataclass(frozen=True)
class Measured:
    """One side's result for one way of serving: waits by tenant, and what was stopped."""

    side: str
    served: str
    seed: int
    waits: dict[str, Waits]
    allocation_pct: float
    stopped: Stopped = field(default_factory=Stopped)


def trace(seed: int) -> Trace:
    """The arrivals of all three; the same for every way of serving."""
    jobs: list[Job] = []
    for number, (tenant, demand) in enumerate(DEMAND_MILLI.items()):
        population = [
            Ask(tenant, f"{tenant}-{size}-{copy}", 1, Resources(gpu_milli=milli, devices=devices, cpu_milli=500))
            for size, (milli, devices) in enumerate(SIZES)
            for copy in range(100)
        ]
        mean = sum(gpu_milli(ask) for ask in population) / len(population)
        count = int(demand / mean * UNTIL_S / LIFE_S[tenant])
        found = arrivals(population, Stream(demand, LIFE_S[tenant], count), random.Random(1000 * seed + number))
        jobs += [Job(f"{tenant}-{job.id}", job.at_s, job.ask, job.lasts_s) for job in found]
    return Trace(tuple(sorted(jobs, key=lambda job: job.at_s)))


def simulated(seed: int) -> list[Measured]:
    """With shares, and first come first served, on the same arrivals."""
    sizes, arriving = fleet.nodes([fleet.Group(GPUS)], fleet.Host()), trace(seed)
    found = []
    for served, policy in (("with shares", "moorage"), ("first come, first served", "fgd")):
        stopped = Stopped()
        setup = Setup(sizes, arriving, POLICIES[policy], SHARES, until_s=UNTIL_S, watch=stopped.see)
        outcome = simulate(setup)
        found.append(
            Measured("simulator", served, seed, outcome.summary.waits, outcome.summary.allocation_pct, stopped)
        )
    return found


SIDES: dict[str, Callable[[int], list[Measured]]] = {"simulator": simulated}


def rows_of(measured: list[Measured]) -> list[dict[str, Any]]:
    """A row for each side, way of serving and tenant: the worst over the seeds."""
    rows = []
    ranked = sorted(measured, key=lambda one: (one.side, one.served))
    for (side, served), group in itertools.groupby(ranked, key=lambda one: (one.side, one.served)):
        runs = list(group)
        for tenant in DEMAND_MILLI:
            waits = [run.waits[tenant] for run in runs if tenant in run.waits]
            rows.append(
                {
                    "side": side,
                    "served": served,
                    "tenant": tenant,
                    "replicas": sum(one.replicas for one in waits),
                    "p50 s": max(one.p50_s for one in waits),
                    "p95 s": max(one.p95_s for one in waits),
                    "longest s": max(one.longest_s for one in waits),
                    "guaranteed": sum(one.owed for one in waits),
                    "longest of these s": max(one.longest_owed_s for one in waits),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    asked = parser.parse_args()
    measured = [one for side in asked.sides for seed in asked.seeds for one in SIDES[side](seed)]
    rows = rows_of(measured)
    report.table(f"Waits for a place, the worst of {len(asked.seeds)} seeds; grace {GRACE_S:g} s", rows)
    stopped = [
        {
            "side": one.side,
            "seed": one.seed,
            "decisions": one.stopped.decisions,
            "replicas stopped": one.stopped.replicas,
            "GPU milli stopped": one.stopped.milli,
            "GPU milli placed for it": one.stopped.milli_asked,
            "stopped needlessly": one.stopped.needless,
            "allocated %": one.allocation_pct,
        }
        for one in measured
        if one.served == "with shares"
    ]
    report.table("What was stopped for a guarantee", stopped)
    guaranteed = [row for row in rows if row["served"] == "with shares" and row["tenant"] != "batch"]
    bounded = all(row["longest of these s"] <= GRACE_S for row in guaranteed)
    print(f"every wait within a guarantee is at most the grace: {'yes' if bounded else 'NO'}")
    report.keep("gpu_fairness", {"grace_s": GRACE_S, "bounded": bounded, "waits": rows, "stopped": stopped})


if __name__ == "__main__":
    main()
