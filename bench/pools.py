"""Thousands of small models of many tenants, a pool a tenant, against a process a model.

    .venv/bin/python bench/pools.py --tenants 20 --models 100

Starts a whole platform, pushes and deploys every model (ONNX and XGBoost, no two alike), asks each once through the
router, then sends Zipf traffic. Memory is the proportional set size of the hosts' processes. Afterwards a few models of
one tenant are deployed dedicated, and what all would take so is extrapolated from those.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from many_load import drive, zipf
from platform_run import platform
from report import keep, table
from small_models import SmallModel, Tenants, made

READY_S = 1800.0


def hosts_of(local: dict[str, Any], event: str) -> list[psutil.Process]:
    """Processes of the replica hosts that the scheduler started with the words `event`."""
    placed, pids = set(), {}
    for line in (Path(local["state"]) / "logs" / "scheduler.log").read_text().splitlines():
        told = json.loads(line) if line.startswith("{") else {}
        if told.get("event") == event:
            placed.add(told["host_id"])
        elif told.get("event") == "host":
            pids[told["host_id"]] = told["pid"]
    return [psutil.Process(pids[host_id]) for host_id in placed if psutil.pid_exists(pids.get(host_id, 0))]


def pss_mib(processes: Sequence[psutil.Process]) -> float:
    """Memory of processes, shared pages by their share."""
    return sum(p.memory_full_info().pss for p in processes if p.is_running()) / 2**20


def taken(hosts: Sequence[psutil.Process]) -> dict[str, Any]:
    """Processes, memory and threads; an actor's process has some fifty threads of Ray's."""
    threads = sum(p.num_threads() for p in hosts)
    return {"processes": len(hosts), "pss_mib": round(pss_mib(hosts), 1), "threads": threads}


def until_ready(tenants: Tenants, models: Sequence[SmallModel]) -> float:
    """Until every model has a ready replica; the seconds it took."""
    began, waiting = time.monotonic(), list(models)
    while waiting:
        if time.monotonic() - began > READY_S:
            model = waiting[0]
            status = tenants.clients[model.tenant].registry.status(model.name)
            raise SystemExit(f"{len(waiting)} models are not ready, {model.tenant}'s {model.name}: {status}")
        waiting = [m for m in waiting if not tenants.clients[m.tenant].registry.status(m.name).ready]
        time.sleep(0.5)
    return time.monotonic() - began


def run(args: argparse.Namespace) -> dict[str, Any]:
    names = [f"tenant-{number:02d}" for number in range(args.tenants)]
    models = list(made(names, args.models))
    with platform("--no-demo") as local:
        tenants = Tenants.make(local, names)
        began = time.monotonic()
        tenants.deploy(models, "pooled")
        pushed_s = time.monotonic() - began
        ready_s = pushed_s + until_ready(tenants, models)

        def ask(sequence: Sequence[int], seconds: float) -> dict[str, Any]:
            load = drive(local["router"], models, tenants.keys, sequence, connections=args.connections, seconds=seconds)
            return asyncio.run(load).told()

        first = ask(range(len(models)), 600.0)
        traffic = ask(zipf(len(models), args.zipf, 2_000_000), args.seconds)
        pooled = taken(hosts_of(local, "placing a pool"))
        dedicated = alone(local, tenants, list(made(names[:1], args.models + args.dedicated))[-args.dedicated :])
        every = round(dedicated["pss_mib_each"] * len(models), 0)
        return {
            "models": len(models),
            "tenants": len(names),
            "pushed_s": round(pushed_s, 1),
            "ready_s": round(ready_s, 1),
            "first": first,
            "zipf": traffic | {"exponent": args.zipf, "connections": args.connections},
            "pooled": pooled,
            "dedicated": dedicated | {"pss_mib_of_all": every, "ratio": round(every / pooled["pss_mib"], 1)},
        }


def alone(local: dict[str, Any], tenants: Tenants, models: Sequence[SmallModel]) -> dict[str, Any]:
    """A process a model, for a few."""
    tenants.deploy(models, "dedicated")
    until_ready(tenants, models)
    sequence = zipf(len(models), 1.0, 3000)
    found = asyncio.run(drive(local["router"], models, tenants.keys, sequence, connections=4, seconds=10.0)).told()
    took = taken(hosts_of(local, "placing"))
    each = round(took["pss_mib"] / max(1, took["processes"]), 1)
    return took | {"pss_mib_each": each, "p50_ms": found["p50_ms"], "p99_ms": found["p99_ms"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tenants", type=int, default=20)
    parser.add_argument("--models", type=int, default=100, help="of each tenant")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--zipf", type=float, default=1.1)
    parser.add_argument("--dedicated", type=int, default=4, help="models measured in a process each")
    results = run(parser.parse_args())
    table(f"{results['models']} models of {results['tenants']} tenants, pooled", [results["pooled"]])
    for name in ("first", "zipf", "dedicated"):
        table(name, [results[name]])
    print(keep("pools", results))


if __name__ == "__main__":
    main()
