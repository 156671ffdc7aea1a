"""What the router alone costs: the same request through it and straight to the host that answers, in one run.

One scikit-learn model of digits on one replica host; key check, quota, routing, metrics and metering on. Reports added
latency (p50 at one connection), the router's CPU time a request (user and system, of its process) and its memory.
`--flame FILE` draws where the time goes; `--memory N` sends N requests over 128 connections and watches memory.

    python bench/router.py [--requests 20000] [--repeats 3] [--flame docs/images/router-flame.svg] [--memory 1000000]
"""

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import load
import nats
import psutil
import report
from platform_run import lift_limits, platform
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import moorage_sdk
from moorage_common.contracts import host_calls, names

CONNECTIONS = (1, 32, 128)
MIB = 1024 * 1024
MODEL = "overhead"


@dataclass(frozen=True)
class Sides:
    """The two ways to the same model, and the router's process."""

    direct: load.Job
    routed: load.Job
    router: psutil.Process


async def endpoint(nats_url: str) -> dict[str, Any]:
    """The one replica host, as the scheduler announces it to routers."""
    client = await nats.connect(nats_url)
    try:
        bucket = await client.jetstream().key_value(names.BUCKET_ENDPOINTS)
        for key in await bucket.keys():
            value = json.loads((await bucket.get(key)).value or b"{}").get("value")
            if value and any(held["model"] == MODEL for held in value.get("versions", [])):
                return dict(value)
    finally:
        await client.close()
    raise SystemExit("no host holds the model")


def sides(local: dict[str, Any], requests: int) -> Sides:
    """Push, deploy, and find both ways."""
    x, y = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=300).fit(x / 16, y)
    client = moorage_sdk.Client(registry=local["registry"], router=local["router"], api_key=local["api_key"])
    version = client.push(model, name=MODEL, example=x[:8] / 16)
    client.deploy(version)
    tensor = {"name": version.signature.inputs[0].name, "datatype": "FP64", "shape": [1, 64]}
    body = json.dumps({"inputs": [{**tensor, "data": (x[0] / 16).tolist()}]})
    host = asyncio.run(endpoint(local["nats"]))
    headers = {
        host_calls.TOKEN: host["token"], host_calls.TENANT: host["tenant"], host_calls.DEADLINE_MS: "30000",
        host_calls.ARM: "v1", "traceparent": "00-" + "1" * 32 + "-" + "1" * 16 + "-00",
    }  # fmt: skip
    direct = load.Job(
        f"http://{host['address']}/v2/models/{MODEL}/versions/1/infer", body, 1, requests, headers=headers
    )
    routed = load.Job(
        f"{local['router']}/v2/models/{MODEL}/infer", body, 1, requests,
        headers={"authorization": f"Bearer {local['api_key']}"},
    )  # fmt: skip
    return Sides(direct, routed, router_process(local["state"]))


def router_process(state: str) -> psutil.Process:
    for process in psutil.process_iter(["cmdline", "environ"]):
        words, environment = process.info["cmdline"] or [], process.info["environ"] or {}
        if "moorage_router" in words and environment.get("MOORAGE_STATE_DIR", "").startswith(state):
            return process
    raise SystemExit("the router's process was not found")


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def measured(job: load.Job, process: psutil.Process) -> tuple[load.Result, float]:
    """The load's result and the process's CPU time a request, microseconds."""
    before = cpu_s(process)
    result = load.run(job)
    sent = result.requests + max(job.warmup, job.connections)
    assert not result.errors, result
    return result, (cpu_s(process) - before) / sent * 1e6


def compare(found: Sides, requests: int, repeats: int) -> list[dict[str, Any]]:
    rows = []
    for connections in CONNECTIONS:
        count = requests if connections > 1 else max(1000, requests // 4)
        direct, routed, cpu = [], [], []
        for _ in range(repeats):
            direct.append(load.run(replace(found.direct, connections=connections, requests=count)))
            result, spent = measured(replace(found.routed, connections=connections, requests=count), found.router)
            routed.append(result)
            cpu.append(spent)
        rows.append(
            {
                "c": connections,
                "direct requests/s": max(r.per_second for r in direct),
                "routed requests/s": max(r.per_second for r in routed),
                "direct p50 ms": min(r.p50_ms for r in direct),
                "routed p50 ms": min(r.p50_ms for r in routed),
                "added p50 ms": round(min(r.p50_ms for r in routed) - min(r.p50_ms for r in direct), 3),
                "router CPU us/request": round(min(cpu), 1),
                "median of it": round(statistics.median(cpu), 1),
            }
        )
    return rows


def under_load(found: Sides, requests: int, work: Callable[[], Any]) -> Any:
    """`work` while the router serves 32 connections."""
    with ThreadPoolExecutor(1) as pool:
        driving = pool.submit(load.run, replace(found.routed, connections=32, requests=requests))
        time.sleep(0.5)
        done = work()
        driving.result()
    return done


def draw_flame(found: Sides, path: Path) -> None:
    """Stacks of the router's process under load, as SVG."""
    command = [
        str(Path(sys.executable).with_name("py-spy")), "record", "-d", "6", "-r", "400", "-f", "flamegraph",
        "-o", str(path), "-p", str(found.router.pid),
    ]  # fmt: skip
    under_load(found, 60_000, lambda: subprocess.run(command, check=True, capture_output=True, timeout=120))
    title = f"moorage_router at 32 connections, {report.machine()['date']}"
    path.write_text(re.sub(r">[^<]*py-spy record[^<]*<", f">{title}<", path.read_text()))


def memory(found: Sides, total: int) -> list[dict[str, Any]]:
    """Memory at the start, under 128 connections, and as requests go by."""
    rows = [{"requests": 0, "rss MiB": round(found.router.memory_info().rss / MIB, 1)}]
    step = max(1, total // 10)
    for done in range(step, total + 1, step):
        load.run(replace(found.routed, connections=128, requests=step))
        rows.append({"requests": done, "rss MiB": round(found.router.memory_info().rss / MIB, 1)})
    return rows


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--requests", type=int, default=20_000, help="a side and concurrency")
    options.add_argument("--repeats", type=int, default=3, help="rounds; the best of each side counts")
    options.add_argument("--flame", type=Path, help="draw a flame graph to this SVG")
    options.add_argument("--memory", type=int, default=0, help="requests to send while memory is watched")
    args = options.parse_args()
    with platform("--no-demo") as local:
        lift_limits(local)
        found = sides(local, args.requests)
        rows = compare(found, args.requests, args.repeats)
        report.table("The router alone, against calling the host directly", rows)
        kept: dict[str, Any] = {"results": rows}
        if args.flame:
            draw_flame(found, args.flame)
        if args.memory:
            kept["memory"] = memory(found, args.memory)
            report.table("The router's memory under 128 connections", kept["memory"])
    print(report.keep("router", kept))


if __name__ == "__main__":
    main()
