"""Requests lost while defragmentation moves replicas: 20 models under load through the router, on ten Ray nodes with
logical GPUs, all on this machine.

    .venv/bin/python bench/defragmentation.py [--rate 10] [--seconds 30]

Twenty replicas of one model half-fill twenty GPUs; twenty models of half a GPU each join them, one a GPU; then the
first ones go. What is left half-fills every GPU, and `moorage defragment` moves ten of the twenty so that ten GPUs are
wholly free. Each model is asked at a fixed rate over a connection of its own all the while, every answer is compared
with its own model's, and any failure counts: none is sent twice.
"""

import argparse
import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
from many_load import Found, message, take
from platform_run import platform
from report import keep, table
from small_models import SmallModel, Tenants, made

from moorage_common.contracts.answers import Defragmented
from moorage_sdk import Client

TENANT = "packed"
NODES, GPUS, MODELS = 10, 2, 20
WAIT_S = 300.0
QUIET_S = 12.0
"""After the last move: what it left behind has stopped by then."""


@dataclass
class Asked:
    """The load while `watched` is set counts apart from that before."""

    before: Found = field(default_factory=Found)
    during: Found = field(default_factory=Found)
    watched: bool = False
    stop: bool = False


async def ask(local: Mapping[str, Any], model: SmallModel, key: str, rate: float, asked: Asked) -> None:
    """One request at a time, at most `rate` a second, until told to stop. A broken connection is a failed request."""
    parts = urlsplit(local["router"])
    line = message(local["router"], model, key)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    due = time.perf_counter()
    while not asked.stop:
        due = max(due + 1 / rate, time.perf_counter() - 1)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        found = asked.during if asked.watched else asked.before
        sent = time.perf_counter()
        try:
            writer.write(line)
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(text[15:]) for text in head.lower().split(b"\r\n") if text.startswith(b"content-length:"))
            body = await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError) as error:
            found.errors += 1
            found.first_error = found.first_error or f"{model.name}: {error!r}"
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        else:
            take(found, model, head, body, time.perf_counter() - sent)
    writer.close()


def places(local: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every device of the cluster with its replicas; none may ever hold more than it has."""
    nodes = httpx.get(f"{local['scheduler']}/v1/placements", trust_env=False, timeout=20).json()["nodes"]
    devices = [device | {"node": node["name"]} for node in nodes for device in node["devices"]]
    assert all(device["milli_free"] >= 0 for device in devices), devices
    return devices


def replicas(local: Mapping[str, Any], *states: str) -> dict[str, tuple[str, str]]:
    """By host, model and place, of those in one of `states`."""
    return {
        one["host_id"]: (one["model"], f"{device['node']}/{device['device']}")
        for device in places(local)
        for one in device["replicas"]
        if one["state"] in states
    }


def until(what: str, condition: Any) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"no {what} within {WAIT_S:g} s")
        time.sleep(0.25)


def deploy(client: Client, name: str, milli: int, count: int = 1) -> None:
    wanted = {
        "version": 1,
        "isolation": "dedicated",
        "scaling": {"min": count, "max": count},
        "resources": {"gpu_milli": milli, "cpu_milli": 20, "host_mem_mib": 128},
    }
    client.registry.put_deployment(name, {"versions": [wanted]})


def fragmented(local: Mapping[str, Any], tenants: Tenants, models: Sequence[SmallModel]) -> None:
    """Half-fill every GPU."""
    client = tenants.clients[TENANT]
    limits = {"requests_per_s": 1_000_000, "burst": 1_000_000, "max_concurrent": 10_000, "gpu_milli": 1_000_000}
    Client(local["registry"], local["router"], local["admin_key"]).registry.set_limits(TENANT, limits)
    first, *small = models
    tenants.deploy(models, "dedicated", min=0, max=1)
    until("validated models", lambda: all(client.registry.version(m.name, 1).state == "ready" for m in models))
    deploy(client, first.name, 500, NODES * GPUS)
    until("replicas to begin with", lambda: len(replicas(local, "ready")) == NODES * GPUS)
    for model in small:
        deploy(client, model.name, 500)
    until("models to ask", lambda: len(replicas(local, "ready")) == NODES * GPUS + MODELS)
    client.registry.delete_deployment(first.name)
    until("room", lambda: len(replicas(local, "ready", "stopping")) == MODELS)


def gather(local: Mapping[str, Any], asked: Asked, seconds: float) -> dict[str, Any]:
    """Order the defragmentation and see it through, in a thread beside the load."""
    time.sleep(seconds)
    operator = Client(local["registry"], local["router"], local["admin_key"])
    before = replicas(local, "ready")
    asked.watched = True
    began = time.monotonic()
    ordered: Defragmented = operator.registry.defragment(dry_run=False)
    least = 20
    changed = began

    def settled() -> bool:
        nonlocal least, changed
        now = replicas(local, "ready")
        least = min(least, len({model for model, _place in now.values()}))
        if len(replicas(local, "ready", "starting", "loading", "stopping")) != MODELS:
            changed = time.monotonic()
        return time.monotonic() - changed > QUIET_S

    until("end of the moves", settled)
    after = replicas(local, "ready")
    devices = places(local)
    return {
        "moves_ordered": len(ordered.moves),
        "models_moved": len({model for host, (model, _) in after.items() if host not in before}),
        "seconds": round(changed - began, 1),
        "gpus_wholly_free_before": ordered.before.free_devices,
        "gpus_wholly_free_after": sum(device["milli_free"] == 1000 for device in devices),
        "fragmented_milli_before": ordered.before.fragmented_milli,
        "least_models_ready": least,
    }


async def measured(
    local: Mapping[str, Any], tenants: Tenants, models: Sequence[SmallModel], rate: float, s: float
) -> Any:
    asked = Asked()
    load = [asyncio.create_task(ask(local, model, tenants.keys[TENANT], rate, asked)) for model in models]
    moves = await asyncio.to_thread(gather, local, asked, s)
    asked.stop = True
    await asyncio.gather(*load)
    return moves, asked


def told(found: Found) -> dict[str, Any]:
    ms = np.array(found.latencies or [0.0])
    p50, p99 = (round(float(np.percentile(ms, q)), 1) for q in (50, 99))
    return {
        "answered": len(found.latencies),
        "failed": found.errors,
        "wrong": found.mismatches,
        "p50_ms": p50,
        "p99_ms": p99,
        "max_ms": round(float(ms.max()), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second of each model")
    parser.add_argument("--seconds", type=float, default=15.0, help="of load before the first move")
    args = parser.parse_args()
    models = list(made([TENANT], 2 * (MODELS + 1)))[::2]  # the ONNX ones
    with platform("--no-demo", "--nodes", str(NODES), "--gpus", str(GPUS), "--warm", "0", deadline_s=300) as local:
        tenants = Tenants.make(local, [TENANT])
        fragmented(local, tenants, models)
        moves, asked = asyncio.run(measured(local, tenants, models[1:], args.rate, args.seconds))
    table("Defragmentation", [moves])
    table("Requests", [{"while": "nothing moves", **told(asked.before)}, {"while": "moving", **told(asked.during)}])
    if asked.during.first_error or asked.before.first_error:
        print(asked.before.first_error or asked.during.first_error)
    results = {"moves": moves, "before": told(asked.before), "during": told(asked.during)}
    print(keep("defragmentation", {"nodes": NODES, "gpus": NODES * GPUS, "models": MODELS, **results}))


if __name__ == "__main__":
    main()
