"""What is lost to fragmentation while replicas come and go: First Fit, FGD and Moorage on openb's pods.

In simulated time: Poisson arrivals in a seeded order, exponential lives; what fits nowhere when it comes is lost.
Every run is audited: nothing oversold, each step of each move fits beside the replica's old place.

    python bench/churn.py --data DIR [--trace default] [--seeds 42 43 44 45 46] [--loads 0.95 1.10]
"""

import argparse
import gzip
import json
import random
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import report

from moorage_scheduler.placement.state import NodeSize
from moorage_scheduler.simulate import openb, plots
from moorage_scheduler.simulate.fleet import capacity_milli
from moorage_scheduler.simulate.policies import POLICIES
from moorage_scheduler.simulate.record import Summary
from moorage_scheduler.simulate.run import Setup, simulate
from moorage_scheduler.simulate.synthetic import Stream, arrivals
from moorage_scheduler.simulate.trace import Trace

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "churn.svg"
LIFE_S = 3600.0
DEFAULT_POLICIES = ("firstfit", "fgd", "moorage")


def nodes_in_order(data: Path, trace: str, seed: int) -> list[NodeSize]:
    """The cluster, named so that its fixed order is the one that belongs to the seed."""
    nodes = openb.read_nodes(data / "nodes.csv.gz")
    with gzip.open(data / "orders" / f"{trace}-{seed}.json.gz") as file:
        order = json.load(file)["nodes"]
    return [replace(nodes[row], name=f"n{place:05}") for place, row in enumerate(order)]


def measure(data: Path, trace: str, seed: int, load: float, *, count: int, policies: list[str]) -> dict[str, Summary]:
    """One seed at one load, under each policy."""
    sizes = nodes_in_order(data, trace, seed)
    pods = openb.read_pods(data / f"pods_{trace}.csv.gz")
    stream = Stream(load * capacity_milli(sizes), LIFE_S, count, patience_s=0.0, warm=True)
    jobs = arrivals(pods, stream, random.Random(seed))
    found = {}
    for name in policies:
        setup = Setup(sizes, Trace(jobs), POLICIES[name], counted_from_s=LIFE_S, sample_s=LIFE_S)
        found[name] = simulate(setup).summary
        print(
            f"load {load}, seed {seed}, {name}: {found[name].lost_pct:.2f} % lost, "
            f"{found[name].moves_per_1000:.2f} moves per 1,000 of {found[name].arrivals} arrivals",
            flush=True,
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="directory of openb's traces")
    parser.add_argument("--trace", default="default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44, 45, 46])
    parser.add_argument("--loads", type=float, nargs="+", default=[0.95, 1.10])
    parser.add_argument("--arrivals", type=int, default=40_000)
    parser.add_argument("--policies", nargs="+", default=list(DEFAULT_POLICIES), choices=list(POLICIES))
    asked = parser.parse_args()
    runs: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for load in asked.loads:
        by_seed = [
            measure(asked.data, asked.trace, seed, load, count=asked.arrivals, policies=asked.policies)
            for seed in asked.seeds
        ]
        for seed, found in zip(asked.seeds, by_seed, strict=True):
            runs += [{"load": load, "seed": seed, **_plain(summary)} for summary in found.values()]
        for name in asked.policies:
            of_policy = [found[name] for found in by_seed]
            lost = [summary.lost_pct for summary in of_policy]
            rows.append(
                {
                    "offered": f"{load:.2f}",
                    "policy": name,
                    "lost %": round(fmean(lost), 2),
                    "lowest-highest": f"{min(lost):.2f}-{max(lost):.2f}",
                    "allocated %": round(fmean(one.allocation_pct for one in of_policy), 2),
                    "moves per 1,000": round(fmean(one.moves_per_1000 for one in of_policy), 2),
                    "arrivals counted": sum(one.arrivals for one in of_policy),
                }
            )
    report.table(f"Lost GPU demand under churn, {asked.trace}, mean of {len(asked.seeds)} seeds", rows)
    report.keep("churn", {"trace": asked.trace, "life_s": LIFE_S, "summary": rows, "runs": runs})
    draw(rows, asked.loads, asked.policies)


def _plain(summary: Summary) -> dict[str, Any]:
    return {name: value for name, value in asdict(summary).items() if name != "waits"}


def draw(rows: list[dict[str, Any]], loads: list[float], policies: list[str]) -> None:
    """docs/images/churn.svg."""
    lost = {
        f"{name}": [
            next(r["lost %"] for r in rows if r["policy"] == name and r["offered"] == f"{load:.2f}") for load in loads
        ]
        for name in policies
    }
    plots.bars(
        [f"{100 * load:.0f} % of the GPUs asked for" for load in loads], lost, "lost, % of GPU demand", PICTURE,
        "GPU demand that fits nowhere when it comes, replicas coming and going",
    )  # fmt: skip


if __name__ == "__main__":
    main()
