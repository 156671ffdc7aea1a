"""How full placement packs a cluster: 1,213 nodes and 6,212 GPUs, replicas arriving in a seeded random order.

Nodes and requests are those of the traces published with FGD (USENIX ATC 2023). Replicas arrive until they have asked
for 130 % of all GPU; one that fits nowhere is lost, and nobody leaves. Every placement and move is recounted apart from
the scheduler's own account.

    python bench/packing.py --data DIR --trace default --seed 42 --policy moorage --json
    python bench/packing.py --data DIR            all traces, seeds and policies; keeps bench/results/packing.json
    python bench/packing.py --data DIR --growth   decisions and repairs at 1 to 10 times the nodes

DIR holds nodes.csv.gz, pods_<trace>.csv.gz and orders/<trace>-<seed>.json.gz. Policies: fgd and bestfit as published
(FGD knows the typical requests beforehand), firstfit, and moorage: FGD by the requests seen so far, then repair.
Moorage sets `--staging` devices aside, which count as not allocated. `moves` counts replicas that a rescue moved;
`stopovers` those of them that went by way of a device set aside, and so were started twice.
"""

import argparse
import csv
import gzip
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import report
from recount import Recount

from moorage_common.contracts.desired import Resources
from moorage_scheduler.placement.decisions import Place, Queue, Repair
from moorage_scheduler.placement.fragmentation import Typical, klass
from moorage_scheduler.placement.plan import place
from moorage_scheduler.placement.repair import carry_out, repair
from moorage_scheduler.placement.scores import Policy
from moorage_scheduler.placement.staging import DEPLOYMENT, set_aside
from moorage_scheduler.placement.state import DEVICE_MILLI, Ask, ClusterState, Held, NodeSize

TRACES = ("default", "gpushare40", "cpu100", "gpuspec10", "multigpu20")
SEEDS = (42, 43, 44, 45, 46)
POLICIES = ("fgd", "bestfit", "firstfit", "moorage")
PUBLISHED = {
    "default": (95.39, 93.08), "gpushare40": (94.15, 91.69), "cpu100": (95.35, 93.44), "gpuspec10": (94.95, 93.30),
    "multigpu20": (95.65, 93.93),
}  # fmt: skip
GROWTH = (1, 2, 5, 10)


@dataclass(frozen=True)
class Trace:
    """Nodes in their fixed order (kept by their names), and what arrives."""

    sizes: tuple[NodeSize, ...]
    requests: tuple[Resources, ...]
    arrivals: tuple[int, ...]

    @property
    def capacity(self) -> int:
        return DEVICE_MILLI * sum(size.devices for size in self.sizes)


def rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt") as lines:
        return list(csv.DictReader(lines))


def read_trace(data: Path, trace: str, seed: int) -> Trace:
    with gzip.open(data / "orders" / f"{trace}-{seed}.json.gz", "rt") as lines:
        order = json.load(lines)
    nodes = rows(data / "nodes.csv.gz")
    sizes = tuple(
        NodeSize(f"{at:05d}-{row['sn']}", int(row["gpu"]), int(row["cpu_milli"]), int(row["memory_mib"]), row["model"])
        for at, row in enumerate(nodes[number] for number in order["nodes"])
    )
    return Trace(sizes, tuple(map(resources, rows(data / f"pods_{trace}.csv.gz"))), tuple(order["arrivals"]))


def resources(pod: dict[str, str]) -> Resources:
    devices = int(pod["num_gpu"])
    return Resources(
        gpu_milli=int(pod["gpu_milli"]) if devices else 0,
        devices=max(1, devices),
        cpu_milli=max(10, int(pod["cpu_milli"])),
        host_mem_mib=max(64, int(pod["memory_mib"])),
        gpu_models=[model for model in pod.get("gpu_spec", "").split("|") if model],
    )


def asked_milli(request: Resources) -> int:
    return request.gpu_milli * request.devices


@dataclass
class Times:
    """How long something took, by the clock and in processor time, in `unit`s a second."""

    unit: float
    spent: list[tuple[float, float]] = field(default_factory=list)
    _begun: tuple[float, float] = (0.0, 0.0)

    def begin(self) -> None:
        self._begun = time.perf_counter(), time.thread_time()

    def end(self) -> None:
        clock, cpu = self._begun
        self.spent.append((time.perf_counter() - clock, time.thread_time() - cpu))

    def percentiles(self) -> dict[str, float]:
        """p50 and p99; `cpu_` is processor time, which other work on the machine does not stretch."""
        if not self.spent:
            return {}
        found = np.percentile(np.array(self.spent) * self.unit, (50, 99), axis=0).round(1).tolist()
        return {"p50": found[0][0], "p99": found[1][0], "cpu_p50": found[0][1], "cpu_p99": found[1][1]}


@dataclass
class Run:
    """One cluster being filled under one policy."""

    policy: str
    state: ClusterState
    recount: Recount
    decisions: "Times" = field(default_factory=lambda: Times(1e6))
    repairs: "Times" = field(default_factory=lambda: Times(1e3))
    rescues: int = 0
    moves: int = 0
    stopovers: int = 0
    most_moves: int = 0
    lost: int = 0

    @staticmethod
    def of(trace: Trace, policy: str, staging: int) -> "Run":
        state = ClusterState.of(trace.sizes, {})
        if policy == "moorage":
            set_aside(state, staging)
        elif policy == "fgd":
            state.learn(Typical.of(klass(Ask("", "", 1, request).shape) for request in trace.requests))
        return Run(policy, state, Recount.of(trace.sizes))

    def arrive(self, replica: str, ask: Ask) -> None:
        self.decisions.begin()
        if self.policy == "moorage":
            self.state.observe(ask)
        found: Place | Queue | Repair | None = place(self.state, ask, self.placing)
        self.decisions.end()
        if isinstance(found, Queue) and self.policy == "moorage":
            found = self.rescued(ask)
        if isinstance(found, Place):
            self.recount.placed(replica, ask, found)
            self.state.add(replica, Held(ask, found.node, found.devices, found.gpu_milli))
        else:
            self.lost += 1

    @property
    def placing(self) -> Policy:
        return "bestfit" if self.policy == "bestfit" else "firstfit" if self.policy == "firstfit" else "fgd"

    def rescued(self, ask: Ask) -> Place | None:
        """The place that moving others makes for `ask`; None: no plan, or none was sought."""
        searches = self.state.failures.searches
        self.repairs.begin()
        plan = repair(self.state, ask, lambda _: True)
        if self.state.failures.searches > searches:
            self.repairs.end()
        if plan is None:
            return None
        moved = {move.replica for move in plan.moves}
        self.rescues += 1
        self.moves += len(moved)
        self.most_moves = max(self.most_moves, len(moved))
        self.stopovers += len(plan.moves) - len(moved)
        self.recount.moved(plan)
        carry_out(self.state, plan)
        return plan.place

    def check(self) -> None:
        """Raises Broken where the scheduler's account is not what the recount says."""
        held = self.state.held.items()
        self.recount.same((name, one.node, one.devices) for name, one in held if one.ask.deployment != DEPLOYMENT)


def packing(trace: Trace, policy: str, staging: int) -> dict[str, Any]:
    """Fill a cluster; allocation when 100 and 130 per cent of its GPU have been asked for, and how it went."""
    run = Run.of(trace, policy, staging)
    asked = 0
    at_100 = None
    for number, request in enumerate(trace.requests[row] for row in trace.arrivals):
        run.arrive(str(number), Ask(f"pod-{number}", "pod", 1, request))
        asked += asked_milli(request)
        if at_100 is None and asked >= trace.capacity:
            at_100 = run.recount.gpu_milli()
    run.check()
    return {
        "allocation_100": round(100 * (at_100 or 0) / trace.capacity, 3),
        "allocation_130": round(100 * run.recount.gpu_milli() / trace.capacity, 3),
        "placed": len(run.recount.places),
        "lost": run.lost,
        "moves": run.moves,
        "rescues": run.rescues,
        "moves_most_a_rescue": run.most_moves,
        "stopovers": run.stopovers,
        "staging_devices": staging if policy == "moorage" else 0,
        "decision_us": run.decisions.percentiles(),
        "repair_ms": run.repairs.percentiles(),
        "invariants": {"checks": run.recount.checks, "broken": 0},
    }


def grown(trace: Trace, times: int) -> Trace:
    sizes = [replace(size, name=f"{size.name}-{copy:02d}") for size in trace.sizes for copy in range(times)]
    return Trace(tuple(sizes), trace.requests, tuple(row for row in trace.arrivals for _ in range(times)))


def growth(data: Path) -> Iterator[dict[str, Any]]:
    """Decisions and repairs in a nearly full cluster of one to ten times the nodes."""
    once = read_trace(data, "default", SEEDS[0])
    for times in GROWTH:
        trace = grown(once, times)
        run = Run.of(trace, "moorage", 1)
        begin = int(len(trace.arrivals) * 0.85)
        filling = Run("fgd", run.state, run.recount)
        for number, row in enumerate(trace.arrivals[:begin]):
            run.state.observe(ask := Ask(f"pod-{number}", "pod", 1, trace.requests[row]))
            filling.arrive(str(number), ask)
        for number, row in enumerate(trace.arrivals[begin : begin + 1000], start=begin):
            if number % 10 == 0:
                run.state.failures.failed_at.clear()
            run.arrive(str(number), Ask(f"pod-{number}", "pod", 1, trace.requests[row]))
        run.check()
        yield {
            "nodes": len(trace.sizes), "GPUs": trace.capacity // DEVICE_MILLI, "replicas": len(run.recount.places),
            **{f"decision us {name}": value for name, value in run.decisions.percentiles().items()},
            "repairs": len(run.repairs.spent),
            **{f"repair ms {name}": value for name, value in run.repairs.percentiles().items()},
        }  # fmt: skip


def one(job: tuple[Path, str, int, str, int]) -> dict[str, Any]:
    data, trace, seed, policy, staging = job
    return {
        "trace": trace, "seed": seed, "policy": policy, **packing(read_trace(data, trace, seed), policy, staging)
    }  # fmt: skip


def mean(runs: Sequence[dict[str, Any]], name: str) -> float:
    return round(statistics.mean(run[name] for run in runs), 2)


def summary(runs: Sequence[dict[str, Any]], trace: str) -> dict[str, Any]:
    """A line of the table: means over the seeds."""
    by = {policy: [run for run in runs if run["trace"] == trace and run["policy"] == policy] for policy in POLICIES}
    at_130 = {policy: mean(of, "allocation_130") for policy, of in by.items()}
    ours = by["moorage"]
    moves, rescues = sum(run["moves"] for run in ours), sum(run["rescues"] for run in ours)
    return {
        "trace": trace, "FGD": at_130["fgd"], "published": PUBLISHED[trace][0], "BestFit": at_130["bestfit"],
        "published ": PUBLISHED[trace][1], "First Fit": at_130["firstfit"], "Moorage": at_130["moorage"],
        "over FGD": round(at_130["moorage"] - at_130["fgd"], 2), "at 100 %": mean(ours, "allocation_100"),
        "FGD at 100 %": mean(by["fgd"], "allocation_100"), "moves": round(moves / len(ours)),
        "a rescue": round(moves / max(1, rescues), 2),
        "of placed %": round(100 * moves / sum(run["placed"] for run in ours), 1),
        "stopovers": round(mean(ours, "stopovers")),
        "decision us p99": max(run["decision_us"]["p99"] for run in ours),
        "repair ms p99": max(run["repair_ms"]["p99"] for run in ours),
    }  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--trace", help="one run only, of this trace")
    options.add_argument("--seed", type=int, default=SEEDS[0])
    options.add_argument("--policy", choices=POLICIES, default="moorage")
    options.add_argument("--staging", type=int, default=1, help="devices that Moorage sets aside for swaps")
    options.add_argument("--json", action="store_true", help="print the one run as JSON")
    options.add_argument("--growth", action="store_true")
    options.add_argument("--jobs", type=int, default=1, help="processes; more than one spoil the timings")
    args = options.parse_args()
    if args.trace:
        found = one((args.data, args.trace, args.seed, args.policy, args.staging))
        print(json.dumps(found)) if args.json else report.table("Packing", [found])
        return
    if args.growth:
        lines = list(growth(args.data))
        report.table("Growth, default trace", lines)
        report.keep("packing_growth", {"growth": lines})
        return
    jobs = [(args.data, trace, seed, policy, args.staging) for trace in TRACES for seed in SEEDS for policy in POLICIES]
    with ProcessPoolExecutor(args.jobs) as pool:
        runs = list(pool.map(one, jobs))
    lines = [summary(runs, trace) for trace in TRACES]
    report.table("GPU allocated when 130 % is asked for, per cent (means over seeds)", lines)
    report.keep("packing", {"summary": lines, "runs": runs})


if __name__ == "__main__":
    main()
