"""Router processes as the launcher starts them, without what they lean on: their sockets, names and returns."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from moorage_local import ports, services
from moorage_local.credentials import Credentials
from moorage_local.ownership import Belongings
from moorage_local.processes import Supervision
from moorage_local.services import Plan


@dataclass
class Routers:
    """Two routers on one port."""

    plan: Plan
    supervision: Supervision

    def pid(self, name: str) -> int:
        noted = json.loads((self.plan.state / "processes.json").read_text())
        return int(noted["processes"][name][0])

    async def alive(self) -> bool:
        """Whether the port answers on a new connection."""
        return await answers(self.plan.router_url + "/v2/health/live")

    async def operates(self, name: str) -> bool:
        return await answers(self.plan.operations()[name] + "/healthz")


async def answers(url: str) -> bool:
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        try:
            return (await client.get(url)).status_code == 200
        except httpx.TransportError:
            return False


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110 - what is awaited happens in another process
            await asyncio.sleep(0.02)


@pytest.fixture
async def routers(tmp_path: Path) -> AsyncIterator[Routers]:
    chosen = ports.choose(0, routers=2)
    plan = Plan(tmp_path, chosen, Credentials.of(tmp_path), 0, Path("/tmp/ray"), routers=2)
    supervision = Supervision(tmp_path / "logs", Belongings(tmp_path / "processes.json"), lambda _text: None)
    with ports.listening(chosen.router, 2) as listeners:
        programs = services.programs(plan, [listener.fileno() for listener in listeners])
        for program in programs:
            if program.name in plan.router_names:
                supervision.start(program)
        running = Routers(plan, supervision)
        try:
            for name in plan.router_names:
                await eventually(lambda name=name: running.operates(name))  # type: ignore[misc]
            yield running
        finally:
            await supervision.end(*plan.router_names)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_every_new_connection_is_answered_while_one_router_is_away_and_it_comes_back(
    routers: Routers, number: signal.Signals
) -> None:
    ended = routers.pid("router-1")
    os.kill(ended, number)
    asked = 0
    async with asyncio.timeout(60):
        while asked < 50 or routers.pid("router-1") == ended or not await routers.operates("router-1"):
            assert await routers.alive()
            asked += 1
    assert await routers.operates("router-0")


async def test_each_router_has_a_log_and_none_waits_for_another(routers: Routers) -> None:
    logs = sorted(path.name for path in (routers.plan.state / "logs").iterdir())
    assert logs == ["router-0.log", "router-1.log"]
    os.kill(routers.pid("router-0"), signal.SIGSTOP)
    try:
        for _ in range(50):
            assert await routers.alive()
    finally:
        os.kill(routers.pid("router-0"), signal.SIGCONT)
