"""From no replica to an answer, through the router: cold, in a warm host, and many models woken at once.

    .venv/bin/python bench/cold_start.py

Every model is a small ONNX network that is deployed with `min: 0` and has no replica; the time is that of its first
request, sent once, from the first byte out to the last byte in. A start is called warm if its replica runs in a host
that waited warm, which the host's name says.
"""

import argparse
import asyncio
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
from many_load import message
from platform_run import platform
from report import keep, table
from small_models import SmallModel, Tenants, made

TENANT = "sleepers"
VALIDATED_S, WARM_S = 600.0, 300.0


def until_warm(local: dict[str, Any], count: int) -> None:
    """Until so many empty hosts wait."""
    deadline = time.monotonic() + WARM_S
    while len(httpx.get(f"{local['scheduler']}/v1/placements", trust_env=False).json()["warm"]) < count:
        if time.monotonic() > deadline:
            raise SystemExit(f"there are not {count} warm hosts within {WARM_S:g} s")
        time.sleep(0.2)


def until_validated(tenants: Tenants, models: Sequence[SmallModel]) -> None:
    """Until all may serve."""
    deadline = time.monotonic() + VALIDATED_S
    for model in models:
        while tenants.clients[TENANT].registry.version(model.name, 1).state != "ready":
            if time.monotonic() > deadline:
                raise SystemExit(f"{model.name} is not validated within {VALIDATED_S:g} s")
            time.sleep(0.1)


async def wake(local: dict[str, Any], tenants: Tenants, models: Sequence[SmallModel]) -> list[float]:
    """The first request of each, all at once; seconds until each answer."""
    parts = urlsplit(local["router"])

    async def ask(model: SmallModel) -> float:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        sent = time.perf_counter()
        writer.write(message(local["router"], model, tenants.keys[TENANT]))
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await reader.readexactly(length)
        took = time.perf_counter() - sent
        writer.close()
        if not head.startswith(b"HTTP/1.1 200") or not model.holds(body):
            raise SystemExit(f"{model.name}: {head[:60]!r} {body[:300]!r}")
        return took

    return list(await asyncio.gather(*(ask(model) for model in models)))


def told(seconds: Sequence[float], warm: int) -> dict[str, Any]:
    p50, p95 = (round(float(np.percentile(seconds, q)), 3) for q in (50, 95))
    return {"starts": len(seconds), "in_warm_hosts": warm, "p50_s": p50, "p95_s": p95, "max_s": round(max(seconds), 3)}


def in_warm_hosts(tenants: Tenants, models: Sequence[SmallModel]) -> int:
    status = tenants.clients[TENANT].registry.status
    return sum(r.host_id.startswith("_warm.") for model in models for r in status(model.name).replicas)


def measured(warm: int, single: int, at_once: int) -> dict[str, dict[str, Any]]:
    """On a platform that keeps `warm` empty hosts: starts one by one, then `at_once` together."""
    models = list(made([TENANT], 2 * (single + at_once)))[::2]  # the ONNX ones
    results = {}
    with platform("--no-demo", "--warm", str(warm)) as local:
        tenants = Tenants.make(local, [TENANT])
        tenants.deploy(models, "dedicated", min=0, max=1)
        until_validated(tenants, models)
        seconds = []
        for model in models[:single]:
            until_warm(local, min(1, warm))
            seconds += asyncio.run(wake(local, tenants, [model]))
        results[f"{warm} warm, one at a time"] = told(seconds, in_warm_hosts(tenants, models[:single]))
        if at_once:
            until_warm(local, warm)
            seconds = asyncio.run(wake(local, tenants, models[single:]))
            results[f"{warm} warm, {at_once} at once"] = told(seconds, in_warm_hosts(tenants, models[single:]))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--warm", type=int, nargs="*", default=[0, 8, 50], help="empty hosts kept, a platform each")
    parser.add_argument("--single", type=int, default=12)
    parser.add_argument("--at-once", type=int, default=50)
    args = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    for warm in args.warm:
        results |= measured(warm, args.single, args.at_once)
    table("From no replica to an answer", [{"case": case, **row} for case, row in results.items()])
    print(keep("cold_start", results))


if __name__ == "__main__":
    main()
