"""How long a revoked key is still accepted: a registry, three routers, NATS and Redis as processes, asked meanwhile.

Each router is asked with the key every few milliseconds. A revocation's lag is from sending `DELETE /v1/keys/{kid}` to
the last answer that still accepted the key, of all three routers. Rounds: the bus up; the bus killed; the bus hung
(SIGSTOP). The first of every `--per-cut` revocations without the bus is sent as the bus goes, the others while it is
away.

    python bench/revocation.py [--revocations 30] [--per-cut 10] [--routers 3]
"""

import argparse
import asyncio
import contextlib
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import report

from moorage_common import api_keys
from moorage_common.testing.servers import Server, free_port, nats_server, redis_server, wait_until
from moorage_common.tied import tied

ASK_S = 0.005
REFUSED_FOR_S = 0.5
"""A key counts as refused everywhere once it has been for so long."""
GIVE_UP_S = 30.0
HEALED_S = 6.0
ROUNDS = ("up", "killed", "hung")


@dataclass(frozen=True)
class Stage:
    """The processes, and the operator's client of the registry."""

    nats: Server
    registry: httpx.AsyncClient
    routers: list[str]


@contextlib.contextmanager
def program(module: str, directory: Path, **settings: Any) -> Iterator[str]:
    """A service of the platform as a process that runs; its base URL."""
    directory.mkdir(parents=True)
    port, ops = free_port(), free_port()
    names = {"port": port, "ops_port": ops, "log_level": "warning", **settings}
    environment = {**os.environ, **{f"MOORAGE_{name.upper()}": str(value) for name, value in names.items()}}
    with (directory / "log").open("wb") as log:
        command = tied([sys.executable, "-m", module])
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def runs() -> bool:
        if process.poll() is not None:
            raise SystemExit(f"{module} ended:\n{(directory / 'log').read_text()[-2000:]}")
        try:
            return httpx.get(f"http://127.0.0.1:{ops}/healthz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(runs, timeout_s=60, what=module)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def staged(directory: Path, routers: int, admin_key: str) -> Iterator[tuple[Server, str, list[str]]]:
    """NATS, the registry's URL and the routers' URLs."""
    pepper = secrets.token_hex(16)
    with contextlib.ExitStack() as stack:
        nats = stack.enter_context(nats_server(directory / "nats"))
        redis = stack.enter_context(redis_server(directory / "redis"))
        common = {"pepper": pepper, "nats_url": nats.url}
        registry = stack.enter_context(
            program(
                "moorage_registry", directory / "registry", **common, artifact_dir=directory / "artifacts",
                database_url=f"sqlite+aiosqlite:///{directory}/registry.db", public_url="http://127.0.0.1",
                bootstrap_admin_key=admin_key,
            )
        )  # fmt: skip
        urls = [
            stack.enter_context(
                program(
                    "moorage_router", directory / f"router-{number}", **common, router_name=f"router-{number}",
                    redis_url=redis.url, state_dir=directory / f"router-{number}" / "state", registry_url=registry,
                )
            )
            for number in range(routers)
        ]  # fmt: skip
        yield nats, registry, urls


async def accepts(http: httpx.AsyncClient, router: str, key: str) -> bool:
    answer = await http.get(f"{router}/v2/models", headers={"authorization": f"Bearer {key}"})
    return answer.status_code == 200


async def made(stage: Stage, http: httpx.AsyncClient, count: int) -> list[dict[str, str]]:
    """New keys that every router accepts."""
    keys = []
    for _ in range(count):
        answer = await stage.registry.post("/v1/keys", json={"scopes": ["infer:*"]})
        keys.append(answer.raise_for_status().json())
    deadline = time.monotonic() + GIVE_UP_S
    for key in keys:
        for router in stage.routers:
            while not await accepts(http, router, key["key"]):
                if time.monotonic() > deadline:
                    raise SystemExit(f"{router} does not accept a new key")
                await asyncio.sleep(0.02)
    return keys


async def lag_of(stage: Stage, http: httpx.AsyncClient, key: dict[str, str], cut: Callable[[], None] | None) -> float:
    """Seconds from the revocation to the last accepted request of all routers; `cut` is done just before."""
    accepted_at = dict.fromkeys(stage.routers, time.monotonic())
    ended = asyncio.Event()

    async def ask(router: str) -> None:
        while not ended.is_set():
            if await accepts(http, router, key["key"]):
                accepted_at[router] = time.monotonic()
            await asyncio.sleep(ASK_S)

    async with asyncio.TaskGroup() as group:
        for router in stage.routers:
            group.create_task(ask(router))
        await asyncio.sleep(10 * ASK_S)
        if cut is not None:
            cut()
        sent = time.monotonic()
        (await stage.registry.delete(f"/v1/keys/{key['kid']}")).raise_for_status()
        while time.monotonic() - max(accepted_at.values()) < REFUSED_FOR_S:
            if time.monotonic() - sent > GIVE_UP_S:
                break
            await asyncio.sleep(ASK_S)
        ended.set()
    return max(0.0, max(accepted_at.values()) - sent)


async def lags_of(stage: Stage, how: str, revocations: int, per_cut: int) -> list[float]:
    """Lags with the bus `how`, and the bus back afterwards."""
    cut = {"up": lambda: None, "killed": stage.nats.kill, "hung": lambda: os.kill(stage.nats.pid, signal.SIGSTOP)}[how]
    lags: list[float] = []
    async with httpx.AsyncClient(timeout=GIVE_UP_S, trust_env=False) as http:
        while len(lags) < revocations:
            keys = await made(stage, http, min(per_cut, revocations - len(lags)))
            for number, key in enumerate(keys):
                lags.append(await lag_of(stage, http, key, cut if number == 0 else None))
            if how == "killed":
                await asyncio.to_thread(stage.nats.start)
            elif how == "hung":
                os.kill(stage.nats.pid, signal.SIGCONT)
            if how != "up":
                await asyncio.sleep(HEALED_S)
    return lags


def row_of(how: str, lags: list[float]) -> dict[str, Any]:
    ordered = sorted(lags)
    return {
        "bus": how, "revocations": len(ordered), "p50 s": round(statistics.median(ordered), 3),
        "p99 s": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 3), "most s": round(ordered[-1], 3),
        "goal s": 1 if how == "up" else 5, "met": ordered[-1] <= (1 if how == "up" else 5),
    }  # fmt: skip


async def measured(args: argparse.Namespace, directory: Path) -> list[dict[str, Any]]:
    admin_key = api_keys.mint().text
    with staged(directory, args.routers, admin_key) as (nats, registry, routers):
        headers = {"authorization": f"Bearer {admin_key}"}
        async with httpx.AsyncClient(base_url=registry, headers=headers, timeout=GIVE_UP_S, trust_env=False) as http:
            stage = Stage(nats, http, routers)
            return [row_of(how, await lags_of(stage, how, args.revocations, args.per_cut)) for how in args.bus]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--revocations", type=int, default=30)
    options.add_argument("--per-cut", type=int, default=10)
    options.add_argument("--routers", type=int, default=3)
    options.add_argument("--bus", nargs="+", choices=ROUNDS, default=list(ROUNDS))
    args = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="moorage-revocation-") as directory:
        rows = asyncio.run(measured(args, Path(directory)))
    report.table(f"A revoked key is still accepted, {args.routers} routers", rows)
    report.keep("revocation", {"routers": args.routers, "rounds": rows})
    if not all(row["met"] for row in rows):
        sys.exit("a goal was missed")


if __name__ == "__main__":
    main()
