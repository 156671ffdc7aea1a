"""What a running rollout costs the data plane, and a shadow the caller: both sides in one run, in turn.

    .venv/bin/python bench/rollout_overhead.py [--rounds 12] [--seconds 6] [--only rollout|shadow]

One platform with two versions of the digits model. Throughput: a model whose split of 95 to 5 was set by hand against
one whose rollout stands at its step of 5 %, counted, told and judged each second; 32 and 128 connections, which ask as
fast as they are answered. Shadow: the model alone against the same one with 5 % of its requests copied to its second
version; 500 and 1,500 requests a second, whether or not earlier ones were answered, which leave the processors room,
and 32 connections as fast as they are answered, which do not. A round is one run of either side, their order changes
from round to round, and the interval is a bootstrap over the rounds' ratios. Every answer is compared.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import joblib  # type: ignore[import-untyped]
import load
import numpy as np
import psutil
import report
import workload
from peers import process
from platform_run import lift_limits, platform
from router import cpu_s, router_process

from moorage_sdk import Client
from moorage_sdk.models.packaging import package
from moorage_sdk.upload import upload, wait_until_validated

SPLIT, ROLLING, ALONE, MIRRORED = "split", "rolling", "alone", "mirrored"
SHARE_PCT = 5
DAY_S = 86_400
POLICY = {
    "steps": [{"weight": SHARE_PCT, "at_least_s": DAY_S, "at_most_s": DAY_S}],
    "baseline_requests": 100,
    "baseline_at_most_s": 5,
    "candidate_hosts": 1,
}
"""Stands at its first step for as long as it is measured; all signals are on."""
READY_S = 180.0
RESAMPLED = 10_000
MODELS = {"rollout": (SPLIT, ROLLING), "shadow": (ALONE, MIRRORED)}
LOADS = {"rollout": ((32, 0.0), (128, 0.0)), "shadow": ((64, 500.0), (64, 1500.0), (32, 0.0))}
"""Connections, and requests a second over all of them; 0: as many as are answered."""


@dataclass(frozen=True)
class Measured:
    """One run of one side. Processor time is of a request, microseconds."""

    per_second: float
    p50_ms: float
    p99_ms: float
    router_cpu_us: float
    cpu_us: float


@dataclass
class Pair:
    """Both sides under one load, round by round."""

    what: str
    connections: int
    paced: float
    without: list[Measured] = field(default_factory=list)
    having: list[Measured] = field(default_factory=list)


@dataclass(frozen=True)
class Stage:
    """What is asked, and whose processor time is looked at."""

    client: Client
    jobs: dict[str, load.Job]
    router: psutil.Process
    tree: Sequence[psutil.Process]

    def run(self, model: str, connections: int, seconds: float, paced: float = 0.0) -> Measured:
        """One run. Raises SystemExit for a wrong or a missing answer."""
        job = replace(self.jobs[model], connections=connections, seconds=seconds, paced=paced)
        before, all_before = cpu_s(self.router), process.cpu_seconds(self.tree)
        result = load.run(job)
        spent = sum(after - all_before.get(pid, after) for pid, after in process.cpu_seconds(self.tree).items())
        if result.errors or result.mismatches:
            raise SystemExit(f"{model}: {result.errors} errors, {result.mismatches} wrong: {result.first_error}")
        return Measured(
            result.per_second, result.p50_ms, result.p99_ms,
            router_cpu_us=round((cpu_s(self.router) - before) / result.answered * 1e6, 1),
            cpu_us=round(spent / result.answered * 1e6, 1),
        )  # fmt: skip


def pushed(client: Client, name: str, model: workload.Model) -> str:
    """Two versions of the same model; the input's name."""
    packaged = package(joblib.load(model.path), model.rows[:4])
    for _ in range(2):
        version = upload(client.registry, name, packaged, feature_service=None, new=True, progress=lambda _line: None)
        wait_until_validated(client.registry, version, 120, lambda _line: None)
    return packaged.signature.inputs[0].name


def deployed(client: Client, local: dict[str, Any], name: str, model: workload.Model) -> load.Job:
    """Push and deploy one side's model; how it is asked."""
    named = replace(model, input_name=pushed(client, name, model))
    client.deploy(name, version=1)
    if name in (SPLIT, MIRRORED):
        client.deploy(name, version=2)
    arms: list[dict[str, Any]] = [{"version": 1, "weight": 100}]
    if name == SPLIT:
        arms = [{"version": 1, "weight": 100 - SHARE_PCT}, {"version": 2, "weight": SHARE_PCT}]
    elif name == MIRRORED:
        arms.append({"version": 2, "weight": SHARE_PCT, "role": "shadow"})
    client.registry.put_traffic(name, arms)
    bodies = named.v2_json()
    return load.Job(
        f"{local['router']}/v2/models/{name}/infer", "", 1, 10_000_000, warmup=10_000_000, warmup_s=1.0,
        headers={"authorization": f"Bearer {local['api_key']}", **bodies[0].headers},
        bodies=[body.data for body in bodies], expected=model.expected(),
    )  # fmt: skip


def at_its_step(stage: Stage) -> None:
    """Start the rollout and ask until the candidate has its share. Raises SystemExit."""
    rollout = stage.client.rollouts.start(ROLLING, to=2, policy=POLICY)
    deadline = time.monotonic() + READY_S
    while not is_baking(rollout.refresh()):
        if time.monotonic() > deadline:
            raise SystemExit(f"the rollout is {rollout.seen.state}: {rollout.seen.reason}")
        stage.run(ROLLING, 4, 1.0)


def is_baking(rollout: Any) -> bool:
    """Raises SystemExit once it was rolled back."""
    if rollout.is_final:
        raise SystemExit(f"the rollout is {rollout.state}: {rollout.reason}")
    return bool(rollout.state == "baking" and rollout.weight == SHARE_PCT)


def measure(stage: Stage, pair: Pair, rounds: int, seconds: float) -> None:
    """Both sides in turn, the first one alternately."""
    without, having = MODELS[pair.what]
    sides = [(without, pair.without), (having, pair.having)]
    for model, _ in sides:
        stage.run(model, pair.connections, seconds, pair.paced)  # not counted: hosts are cold
    for number in range(rounds):
        for model, into in sides if number % 2 else reversed(sides):
            into.append(stage.run(model, pair.connections, seconds, pair.paced))
        if pair.what == "rollout" and not is_baking(stage.client.rollouts.read(ROLLING)):
            raise SystemExit("the rollout left its step while it was measured")
        print(f"{pair.what} c={pair.connections} {pair.paced:g}/s: {pair.without[-1]} {pair.having[-1]}", flush=True)


def ratio(pair: Pair, figure: str, random: np.random.Generator) -> tuple[float, float, float]:
    """Geometric mean of the rounds' ratios, with over without, and its 95 % interval by bootstrap."""
    having, without = (np.array([getattr(one, figure) for one in side]) for side in (pair.having, pair.without))
    logs = np.log(having / without)
    means = random.choice(logs, (RESAMPLED, len(logs))).mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    mean, least, most = (round(float(np.exp(value)), 4) for value in (logs.mean(), low, high))
    return mean, least, most


def rows_of(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    random, rows = np.random.default_rng(5), []
    for pair in pairs:
        for figure in ("per_second", "p50_ms", "p99_ms", "router_cpu_us", "cpu_us"):
            mean, least, most = ratio(pair, figure, random)
            medians = [round(float(np.median([getattr(o, figure) for o in s])), 3) for s in (pair.without, pair.having)]
            rows.append(
                {
                    "what": pair.what, "connections": pair.connections, "paced": pair.paced, "figure": figure,
                    "without": medians[0], "with": medians[1], "ratio": mean, "95 %": f"{least} to {most}",
                }
            )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=6.0, help="of one run of one side")
    parser.add_argument("--only", choices=list(MODELS), help="one of the two comparisons")
    args = parser.parse_args()
    asked = [args.only] if args.only else list(MODELS)
    with tempfile.TemporaryDirectory() as directory, platform("--no-demo") as local:
        lift_limits(local)
        model = workload.make(Path(directory))["digits"]
        with Client(registry=local["registry"], router=local["router"], api_key=local["api_key"]) as client:
            jobs = {name: deployed(client, local, name, model) for what in asked for name in MODELS[what]}
            top = psutil.Process(local["pid"])
            stage = Stage(client, jobs, router_process(local["state"]), [top, *top.children(recursive=True)])
            if "rollout" in asked:
                at_its_step(stage)
            pairs = [Pair(what, *under) for what in asked for under in LOADS[what]]
            for pair in pairs:
                measure(stage, pair, args.rounds, args.seconds)
    rows = rows_of(pairs)
    report.table("With a rollout at 5 % against a split set by hand; with a shadow at 5 % against none", rows)
    kept = {"rounds": args.rounds, "seconds": args.seconds, "rows": rows, "pairs": [asdict(pair) for pair in pairs]}
    print(report.keep("rollout_overhead", kept))


if __name__ == "__main__":
    main()
