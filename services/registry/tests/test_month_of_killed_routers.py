"""A month over real routers that are killed: nothing is given out twice, and nothing stays lost with the dead."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from moorage_common.bus import Bus
from moorage_common.contracts import host_frames
from moorage_common.contracts.endpoints import Endpoint, HeldVersion
from moorage_common.contracts.names import BUCKET_ENDPOINTS, endpoint_key
from moorage_common.contracts.versioned import Versioned
from moorage_common.kv import BucketWriter
from moorage_common.testing.servers import Server, free_port
from moorage_registry.rollouts.testing import MODEL, Stage
from moorage_registry.settings import Settings
from moorage_registry.testing import Caller, Platform, eventually, platform_of

LIMIT = 600
RESERVATION_S = 6.0
LONGER_THAN_A_START_S = 20.0
"""Of a router that ships what the killed one had logged, on a machine that is full."""
BODY = b'{"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}'
ANSWER = b'{"model_name": "digits", "model_version": "1", "outputs": []}'
_GOOD = (
    b"HTTP/1.1 200 OK\r\nmoorage-out-service-us: 120\r\nmoorage-out-rows: 1\r\nmoorage-out-state: ok\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER)
)


async def _host(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A replica host that takes no frames and answers everything."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if host_frames.PATH.encode() in head.split(b"\r\n")[0]:
                writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                continue
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            await reader.readexactly(length)
            writer.write(_GOOD)
    except (asyncio.IncompleteReadError, OSError):
        writer.close()


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """SQLite alone: what several registries do on Postgres at one time is in test_month.py."""
    return f"sqlite+aiosqlite:///{tmp_path}/registry.db"


@pytest.fixture
async def monthly(request: pytest.FixtureRequest, settings: Settings, own_nats: Server) -> AsyncIterator[Platform]:
    """A registry whose reservations are short, on a NATS of its own."""
    change = {"nats_url": SecretStr(own_nats.url), "reservation_s": getattr(request, "param", RESERVATION_S)}
    async with platform_of(settings.model_copy(update=change)) as running:
        yield running


@pytest.fixture
async def caller(monthly: Platform, own_bus: Bus) -> AsyncIterator[Caller]:
    """A tenant whose model has a host, with `LIMIT` requests a month."""
    demo = await monthly.tenant()
    body = {"requests_per_month": LIMIT, "on_store_loss": "closed"}
    await monthly.operator.ok("PUT", f"/v1/tenants/{demo.tenant}/limits", json=body)
    stage = Stage(monthly.registry.db, own_bus, demo)
    await stage.push(b"one")
    await stage.deploy()

    async def nothing() -> dict[str, Versioned]:
        return {}

    await own_bus.bucket(BUCKET_ENDPOINTS)
    server = await asyncio.start_server(_host, "127.0.0.1", 0)
    async with server:
        endpoint = Endpoint(
            cluster="default", host_id="h", tenant=demo.tenant, generation="g", token="t",
            address=f"127.0.0.1:{server.sockets[0].getsockname()[1]}",
            versions=[HeldVersion(model=MODEL, version=1, state="ready")],
        )  # fmt: skip
        writer = BucketWriter(own_bus, BUCKET_ENDPOINTS, "default", nothing, prefix="default.")
        entry = Versioned(epoch=1, version=1, value=endpoint.model_dump(mode="json"))
        assert await writer.put(endpoint_key("default", "h"), entry)
        yield demo


@dataclass
class Routers:
    """Router processes, each with a directory of its own, and the answers they gave."""

    platform: Platform
    redis_url: str
    directory: Path
    key: str
    running: dict[str, tuple[subprocess.Popen[bytes], int]] = field(default_factory=dict)
    answers: list[int] = field(default_factory=list)

    def start(self, name: str) -> None:
        port = free_port()
        variables = {
            "PEPPER": self.platform.settings.pepper.get_secret_value(), "REDIS_URL": self.redis_url,
            "NATS_URL": self.platform.settings.nats_url.get_secret_value(), "ROUTER_NAME": name,
            "STATE_DIR": str(self.directory / name), "PORT": str(port),
        }  # fmt: skip
        environment = os.environ | {f"MOORAGE_{key}": value for key, value in variables.items()}
        with (self.directory / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-m", "moorage_router"]
            self.running[name] = (subprocess.Popen(command, env=environment, stderr=log, stdout=log), port)

    async def ask(self, name: str, client: httpx.AsyncClient) -> int:
        """The status; 0 when the router was not there."""
        headers = {"authorization": f"Bearer {self.key}"}
        try:
            url = f"http://127.0.0.1:{self.running[name][1]}/v2/models/{MODEL}/infer"
            status = (await client.post(url, content=BODY, headers=headers)).status_code
        except httpx.TransportError:
            status = 0
        self.answers.append(status)
        return status

    async def until_answered(self, name: str, client: httpx.AsyncClient) -> None:
        async def answered() -> bool:
            return await self.ask(name, client) == 200

        await eventually(answered, 30)

    def kill(self, name: str) -> None:
        process, _port = self.running[name]
        process.send_signal(signal.SIGKILL)
        process.wait(15)

    def end(self) -> None:
        for process, _port in self.running.values():
            process.terminate()
        for process, _port in self.running.values():
            process.wait(30)

    @property
    def good(self) -> int:
        return self.answers.count(200)


@pytest.fixture
async def routers(monthly: Platform, caller: Caller, redis_url: str, tmp_path: Path) -> AsyncIterator[Routers]:
    started = Routers(monthly, redis_url, tmp_path, caller.key)
    yield started
    started.end()


def ledger_of(caller: Caller) -> Callable[[], Awaitable[int]]:
    async def counted() -> int:
        total: int = (await caller.ok("GET", "/v1/usage"))["total"]["requests"]
        return total

    return counted


async def test_a_router_killed_with_kill_9_takes_nothing_of_the_month_with_it_beyond_its_reservations_end(
    caller: Caller, routers: Routers
) -> None:
    counted = ledger_of(caller)
    async with httpx.AsyncClient(timeout=30) as client:
        for name in ("one", "two"):
            routers.start(name)
        for name in ("one", "two"):
            await routers.until_answered(name, client)
        for _ in range(60):
            assert await routers.ask("one", client) == 200

        async def shipped() -> bool:
            return await counted() == routers.good

        await eventually(shipped)
        held = await caller.ok("GET", "/v1/limits")
        assert held["tenants"][0]["month"]["reserved"] > 0
        routers.kill("one")
        assert held["tenants"][0]["month"]["used"] == routers.good

        async def spent() -> bool:
            for _ in range(20):
                await routers.ask("two", client)
            return await counted() >= LIMIT

        await eventually(spent, 60)
        assert await routers.ask("two", client) == 429
    assert await counted() == LIMIT == routers.good


@pytest.mark.parametrize("monthly", [LONGER_THAN_A_START_S], indirect=True)
async def test_over_several_kills_the_ledger_never_holds_more_than_the_month_has(
    caller: Caller, routers: Routers
) -> None:
    counted, stop = ledger_of(caller), asyncio.Event()

    async with httpx.AsyncClient(timeout=30) as client:
        for name in ("one", "two", "three"):
            routers.start(name)
        await asyncio.gather(*(routers.until_answered(name, client) for name in routers.running))

        async def load(name: str) -> None:
            while not stop.is_set():  # noqa: ASYNC110 - so many requests a second
                await asyncio.sleep(0.005 if await routers.ask(name, client) == 200 else 0.05)

        async def kill_in_turn() -> None:
            for name in ("one", "two", "three"):
                before = routers.good

                async def some_more(before: int = before) -> bool:
                    return routers.good >= min(before + 80, LIMIT)

                await eventually(some_more, 60)
                routers.kill(name)
                routers.start(name)

        async with asyncio.TaskGroup() as group:
            loads = [group.create_task(load(name)) for name in routers.running]
            await kill_in_turn()

            async def all_spent() -> bool:
                return await counted() >= LIMIT

            await eventually(all_spent, 90)
            stop.set()
            await asyncio.wait(loads)
    assert await counted() == LIMIT
    assert routers.good <= LIMIT + 3 * 25  # a kill loses at most 100 ms from the log, and 5 ms lie between requests
