"""Rate limits over several router processes on one Redis: the bound, what is left unused, what they cost, and faults.

    .venv/bin/python bench/quota.py [--seconds 60] [--outage 30] [--routers 1 4 8] [--loads 90 150 500] [--rate 1000]

Real router processes before a host that answers at once; an open-loop load on each, the last of N getting 1/N of what
the first gets, so that shares differ. What the limiter did is what the routers' limiters note (bench/quota_router.py);
the answers are counted by the load, Redis calls by Redis. It takes 35 minutes, and the whole machine.

- bound: admitted <= burst + rate * (w + 0.5 s) in every window w, and <= burst + rate * T in all
- unused: of what was asked, or of burst + rate * T where more was asked
- trips: how often a router gave the store up; with Redis up, that is a machine too busy to answer in 20 ms
- leased: microseconds of the limiter for a request that passes from memory
- a fault: Redis is stopped (and comes back empty), hung (SIGSTOP) or flushed, in mid-run; over: what was admitted in it
  above rate * outage; recovery: until each router's limiter has heard from Redis again
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import quota_router as noted
import report
import uvloop
from numpy.typing import NDArray
from quota_stage import MODEL, TENANT, Host, Load, RouterProcess, tables
from redis.asyncio import Redis

from moorage_common.contracts.keys import ModelRate, Rate, TenantLimits
from moorage_common.testing.servers import Server, nats_server, redis_server

Array = NDArray[np.float64]
SLACK_S = 0.5
LOW_RATE = 100.0
"""So few for eight routers that leases are not worth while: each round of requests asks Redis."""
FAULTS = ("stopped", "hung", "flushed")


@dataclass(frozen=True)
class Cell:
    """One run. `load` is in percent of the rate; `nested`: a key's rate is the one, within a model's and a tenant's."""

    routers: int
    load: int
    rate: float
    burst: int
    seconds: float
    nested: bool = False
    fault: str = ""
    outage: float = 0.0

    @property
    def limits(self) -> TenantLimits:
        """Those around are wider by a tenth, so that the inner one binds."""
        wide = 1.1 if self.nested else 1.0
        around = {"requests_per_s": self.rate * wide, "burst": int(self.burst * wide), "max_concurrent": 10_000}
        rates = [ModelRate(model=MODEL, requests_per_s=self.rate * wide, burst=int(self.burst * wide))]
        return TenantLimits.model_validate({"tenant": TENANT, **around, "model_rates": rates if self.nested else []})

    @property
    def key_rate(self) -> Rate | None:
        return Rate(requests_per_s=self.rate, burst=self.burst) if self.nested else None


@dataclass(frozen=True)
class Run:
    """What was noted. `requests` has the columns of `noted.REQUEST`, in the order they were decided."""

    cell: Cell
    requests: Array
    heard: list[Array]
    load: Load
    store_calls: int
    fault: tuple[float, float]
    trips: int

    @property
    def admitted(self) -> Array:
        """When requests passed, in order."""
        at = self.requests[self.requests[:, 2] <= noted.WAITED]
        return np.sort(at[:, 0] + at[:, 1])


async def run(cell: Cell, nats: Server, redis: Server, directory: Path) -> Run:
    client: Redis = Redis.from_url(redis.url)
    await client.flushall()
    before = await _scripts(client)
    host = await asyncio.get_running_loop().create_server(Host, "127.0.0.1", 0)
    async with tables(nats.url, cell.limits, host.sockets[0].getsockname()[1], cell.key_rate) as key:
        routers = [RouterProcess.start(n, directory, nats.url, redis.url) for n in range(cell.routers)]
        try:
            await asyncio.gather(*(router.serves(key) for router in routers))
            await asyncio.sleep(2)  # the routers have counted one another
            load, shares = Load(key), [1 / (n + 1) for n in range(cell.routers)] if cell.routers > 1 else [1.0]
            driving = asyncio.create_task(
                load.run([r.port for r in routers], shares, cell.rate * cell.load / 100, cell.seconds)
            )
            fault = await _during(cell, redis, client)
            await driving
            calls = 0 if cell.fault == "stopped" else await _scripts(client) - before
        finally:
            for router in routers:
                router.end()
    host.close()
    await client.aclose()
    requests, heard, trips = _notes(routers)
    return Run(cell, requests, heard, load, calls, fault, trips)


def _notes(routers: list[RouterProcess]) -> tuple[Array, list[Array], int]:
    rows = [np.frombuffer(router.notes.read_bytes()).reshape(-1, len(noted.REQUEST)) for router in routers]
    beside = [json.loads(router.notes.with_suffix(".json").read_text()) for router in routers]
    heard, trips = [np.array(found["heard"]) for found in beside], sum(len(found["trips"]) for found in beside)
    together = np.concatenate(rows)
    if not len(together):
        raise SystemExit("no request reached a limiter: " + routers[0].notes.with_suffix(".log").read_text()[-2000:])
    return together[np.argsort(together[:, 0])], heard, trips


async def _scripts(client: Redis) -> int:
    """Scripts that Redis has run."""
    return int((await client.info("commandstats")).get("cmdstat_evalsha", {}).get("calls", 0))


async def _during(cell: Cell, redis: Server, client: Redis) -> tuple[float, float]:
    """Do the fault; when it began and ended."""
    if not cell.fault:
        return 0.0, 0.0
    await asyncio.sleep((cell.seconds - cell.outage) * 0.4)
    began = time.monotonic()
    if cell.fault == "hung":
        os.kill(redis.pid, signal.SIGSTOP)
        await asyncio.sleep(cell.outage)
        os.kill(redis.pid, signal.SIGCONT)
    elif cell.fault == "stopped":
        redis.stop()
        await asyncio.sleep(cell.outage)
        await asyncio.to_thread(redis.start)
    else:
        await client.flushall()
        await asyncio.sleep(cell.outage)
    return began, time.monotonic()


def most_at_once(admitted: Array, rate: float) -> float:
    """The largest excess over `rate` times its length that any window has: the burst that was let pass."""
    if not len(admitted):
        return 0.0
    level = np.arange(1, len(admitted) + 1) - rate * admitted
    return float(np.max(level - np.minimum.accumulate(level)) + 1)


def figures(found: Run) -> dict[str, Any]:
    """A line of the first table."""
    cell, requests, admitted = found.cell, found.requests, found.admitted
    took = float(requests[-1, 0] - requests[0, 0])
    allowed = cell.burst + cell.rate * took
    leased = requests[requests[:, 2] == noted.LEASED, 1]
    windows = most_at_once(admitted, cell.rate) - cell.burst - cell.rate * SLACK_S
    return {
        "routers": cell.routers,
        "limits": 3 if cell.nested else 1,
        "rate": round(cell.rate),
        "load %": cell.load,
        "asked": len(requests),
        "admitted": len(admitted),
        "allowed": int(allowed),
        "over in all": max(0, int(len(admitted) - allowed)),
        "over in a window": max(0, int(windows)),
        "unused %": round(100 * max(0.0, 1 - len(admitted) / min(allowed, len(requests))), 2),
        "Redis calls/request": round(found.store_calls / len(requests), 3),
        "leased %": round(100 * len(leased) / max(1, len(admitted)), 1),
        "leased p50 us": round(_percentile(leased, 50) * 1e6, 1),
        "leased p99 us": round(_percentile(leased, 99) * 1e6, 1),
        "any p99 us": round(_percentile(requests[:, 1], 99) * 1e6, 1),
        "trips": found.trips,
        "not 200 or 429": sum(n for status, n in found.load.statuses.items() if status not in {200, 429}),
        "not sent": found.load.late,
    }


def fault_figures(found: Run) -> dict[str, Any]:
    """A line of the second table."""
    cell, requests, admitted = found.cell, found.requests, found.admitted
    began, ended = found.fault
    inside = (requests[:, 0] >= began) & (requests[:, 0] < ended)
    earlier = (requests[:, 0] < began) & (requests[:, 0] > requests[0, 0] + 1)
    passed = int(np.sum((admitted >= began) & (admitted < ended)))
    allowed, length = cell.burst + cell.rate * float(requests[-1, 0] - requests[0, 0]), ended - began
    forgot = cell.burst if cell.fault == "flushed" else 0
    back = [float(at[at >= ended][0] - ended) if np.any(at >= ended) else float("inf") for at in found.heard]
    waits = [_percentile(requests[part, 1], 99) * 1e3 for part in (earlier, inside)]
    return {
        "fault": cell.fault,
        "load %": cell.load,
        "routers": cell.routers,
        "goodput in it %": round(100 * passed / max(1.0, min(float(np.sum(inside)), cell.rate * length)), 2),
        "over in it %": round(100 * max(0.0, (passed - forgot) / (cell.rate * length) - 1), 2),
        "over in all %": round(100 * max(0.0, (len(admitted) - forgot) / allowed - 1), 2),
        "p99 before ms": round(waits[0], 3),
        "p99 in it ms": round(waits[1], 3),
        "slowest ms": round(float(np.max(requests[inside, 1])) * 1e3, 1),
        "recovery s": round(max(back), 2) if cell.fault != "flushed" else 0.0,
        "trips": found.trips,
        "not 200 or 429": sum(n for status, n in found.load.statuses.items() if status not in {200, 429}),
    }


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """What of a line fits a terminal; the file has all."""
    hidden = ("asked", "allowed", "leased %", "any p99 us", "not sent", "slowest ms", "over in all")
    return {name: value for name, value in row.items() if name not in hidden}


def _percentile(values: Array, percent: float) -> float:
    return float(np.percentile(values, percent)) if len(values) else 0.0


@contextlib.contextmanager
def servers() -> Iterator[tuple[Server, Server, Path]]:
    with tempfile.TemporaryDirectory(prefix="mrg-quota-") as text:
        base = Path(text)
        with nats_server(base / "nats") as nats, redis_server(base / "redis") as redis:
            yield nats, redis, base


def measure(cell: Cell) -> Run:
    """With servers of its own."""
    with servers() as (nats, redis, base):
        notes = base / "notes"
        shutil.rmtree(notes, ignore_errors=True)
        notes.mkdir()
        return uvloop.run(run(cell, nats, redis, notes))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=60, help="of load, a cell")
    options.add_argument("--outage", type=float, default=30, help="seconds that a fault lasts; 0: no faults")
    options.add_argument("--routers", type=int, nargs="+", default=[1, 4, 8])
    options.add_argument("--loads", type=int, nargs="+", default=[90, 150, 500], help="percent of the rate")
    options.add_argument("--rate", type=float, default=1000, help="requests a second of the limit, burst the same")
    args = options.parse_args()
    common = {"rate": args.rate, "burst": int(args.rate), "seconds": args.seconds}
    cells = [Cell(routers, load, **common) for routers in args.routers for load in args.loads]
    cells += [Cell(args.routers[-1], load, **common, nested=True) for load in args.loads[:2]]
    cells += [Cell(args.routers[-1], load, LOW_RATE, int(LOW_RATE), args.seconds) for load in args.loads[:2]]
    kept: dict[str, Any] = {"results": [], "faults": []}
    for cell in cells:
        kept["results"].append(figures(measure(cell)))
        print(kept["results"][-1], flush=True)
    around = {**common, "seconds": args.outage * 2, "outage": args.outage}
    some = args.routers[len(args.routers) // 2]
    for fault in FAULTS if args.outage else ():
        for load in args.loads[:2]:
            kept["faults"].append(fault_figures(measure(Cell(some, load, **around, fault=fault))))
            print(kept["faults"][-1], flush=True)
    report.table("Limits with Redis up", [shown(row) for row in kept["results"]])
    if kept["faults"]:
        report.table("Redis away", [shown(row) for row in kept["faults"]])
    print(report.keep("quota", kept))


if __name__ == "__main__":
    main()
