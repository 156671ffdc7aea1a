"""One registry moves rollouts, however many run; who takes over goes on with the same bits."""

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from moorage_common.bus import Bus
from moorage_common.contracts.names import TenantId
from moorage_common.db import Database
from moorage_common.testing.servers import free_port, wait_until
from moorage_registry.rollouts.lease import LEASE_S, Lease, LeaseLost
from moorage_registry.rollouts.tables import ControllerLeaseRow, RolloutEntryRow, RolloutVerdictRow
from moorage_registry.rollouts.testing import PATH, Router, Stage, ready
from moorage_registry.settings import Settings
from moorage_registry.testing import TENANT_SCOPES, Caller, Platform, eventually, platform_of


@dataclass
class Process:
    """A registry of its own process."""

    settings: Settings
    directory: Path
    port: int = field(default_factory=free_port)
    ops_port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        assert self.settings.bootstrap_admin_key is not None
        variables = {
            "PORT": str(self.port),
            "OPS_PORT": str(self.ops_port),
            "NATS_URL": self.settings.nats_url.get_secret_value(),
            "DATABASE_URL": self.settings.database_url.get_secret_value(),
            "PEPPER": self.settings.pepper.get_secret_value(),
            "ARTIFACT_DIR": str(self.settings.artifact_dir),
            "PUBLIC_URL": self.url,
            "BOOTSTRAP_ADMIN_KEY": self.settings.bootstrap_admin_key.get_secret_value(),
        }
        environment = os.environ | {f"MOORAGE_{name}": value for name, value in variables.items()}
        with (self.directory / "log").open("ab") as log:
            command = [sys.executable, "-m", "moorage_registry"]
            self._process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
        wait_until(self._ready, timeout_s=90)

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.directory / "log").read_text()[-3000:]
        try:
            return httpx.get(f"http://127.0.0.1:{self.ops_port}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
async def process(settings: Settings, tmp_path: Path) -> AsyncIterator[Process]:
    running = Process(settings, tmp_path)
    await asyncio.to_thread(running.start)
    yield running
    running.kill()


@pytest.fixture
async def db(settings: Settings) -> AsyncIterator[Database]:
    """The registries' database."""
    opened = Database.at(settings.database_url.get_secret_value())
    yield opened
    await opened.close()


async def staged(process: Process, bus: Bus, http: httpx.AsyncClient, db: Database) -> Stage:
    """A tenant on the registry of that process, with version 1 deployed and version 2 pushed."""
    key = process.settings.bootstrap_admin_key
    assert key is not None
    operator = Caller(http, TenantId("platform"), key.get_secret_value())
    tenant = TenantId(f"t{secrets.token_hex(6)}")
    await operator.ok("POST", "/v1/tenants", json={"name": tenant})
    created = await operator.ok("POST", "/v1/keys", json={"scopes": TENANT_SCOPES}, headers={"moorage-tenant": tenant})
    stage = Stage(db, bus, Caller(http, tenant, created["key"]))
    await stage.push(b"one", b"two")
    await stage.deploy()
    return stage


async def test_a_registry_killed_in_mid_rollout_goes_on_with_the_same_bits(
    process: Process, db: Database, bus: Bus
) -> None:
    async with httpx.AsyncClient(base_url=process.url) as http:
        stage = await staged(process, bus, http, db)
        signals = {name: {"on": True} for name in ("latency", "drift", "quality")}
        steps = [{"weight": 20, "at_least_s": 3}, {"weight": 50, "at_least_s": 2}]
        rollout = await stage.start(steps=steps, **signals)
        await stage.report(*ready(1, 2), *ready(2, 2))
        routers = [Router("r1"), Router("r2")]

        async def send(candidate: tuple[int, int], stable: tuple[int, int]) -> None:
            for router in routers:
                await stage.send(rollout, router, candidate, stable)

        async def judged(check: Callable[[Any], bool]) -> Any:
            async def found() -> Any:
                now = await stage.rollout()
                return now if check(now["evidence"]) else None

            return await eventually(found, 20)

        await send((0, 0), (300, 2))
        await stage.until("baking")
        for _ in range(5):
            await send((50, 1), (200, 2))
        before = await judged(lambda evidence: evidence["candidate_requests"] == 500)
        process.kill()
        await send((50, 1), (200, 2))
        await asyncio.to_thread(process.start)
        after = await judged(lambda evidence: evidence["candidate_requests"] == 600)
        assert after["seq"] > before["seq"]
        async with stage.traffic(rollout, router=routers[0]):
            await stage.until("guarded", "done")
            process.kill()
            await asyncio.to_thread(process.start)
            await stage.until("done")
        replayed = await stage.demo.ok("POST", f"{PATH}/current/replay", json={})
        assert replayed["same"], replayed
        assert (await stage.kinds())[-2:] == ["promoted", "done"]
        log = (await stage.demo.ok("GET", f"{PATH}/current/log", params={"limit": 500}))["entries"]
        read = [(e["entry"]["batch"]["router"], e["entry"]["batch"]["seq"]) for e in log if e["kind"] == "batch"]
        assert len(read) == len(set(read)), "no batch is judged twice"
        for router in ("r1", "r2"):
            seqs = [seq for name, seq in read if name == router]
            assert seqs == list(range(1, len(seqs) + 1)), "none is left out"


async def test_a_stopped_registry_that_goes_on_writes_nothing_once_another_moves_rollouts(
    process: Process, settings: Settings, db: Database, bus: Bus
) -> None:
    async with httpx.AsyncClient(base_url=process.url) as http:
        stage = await staged(process, bus, http, db)
        rollout = await stage.start(guard={"for_s": 600})
        await stage.report(*ready(1, 2), *ready(2, 2))
        async with stage.traffic(rollout) as router:
            await stage.until("baking")
        holder = await _holder(db)
        process.send(signal.SIGSTOP)
        async with platform_of(settings) as platform:

            async def taken() -> bool:
                found = await _holder(db)
                return found != holder and bool(platform.registry.rollouts.watches)

            await eventually(taken, LEASE_S + 15)
            here = Stage(db, bus, Caller(platform.operator.http, stage.demo.tenant, stage.demo.key))
            process.send(signal.SIGCONT)
            async with here.traffic(rollout, router=router, bad=0.5):
                await here.until("rolled_back")
            new = await _holder(db)
            assert (new[0] != holder[0], new[1]) == (True, holder[1] + 1)
            assert (await here.kinds())[-1] == "rolled_back"
            assert (await here.demo.ok("POST", f"{PATH}/current/replay", json={}))["same"]


async def _holder(db: Database) -> tuple[str, int]:
    async with db.read() as session:
        row = (await session.scalars(select(ControllerLeaseRow))).one()
        return row.holder, row.fencing


async def test_of_two_registries_one_moves_a_rollout_and_each_batch_is_judged_once(
    platform: Platform, settings: Settings, stage: Stage, demo: Caller
) -> None:
    async with platform_of(settings) as second:
        rollout = await stage.start(guard={"for_s": 600})
        await stage.report(*ready(1, 2), *ready(2, 2))
        async with stage.traffic(rollout):
            await stage.until("guarded")
        both = [bool(one.registry.rollouts.watches) for one in (platform, second)]
        assert sorted(both) == [False, True]
        other = Caller(second.operator.http, demo.tenant, demo.key)
        assert (await other.ok("GET", f"{PATH}/current"))["evidence"], "each tells what it is judged to be"
        aborted = await other.ok("POST", f"{PATH}/current/abort")
        assert aborted["state"] == "aborted"
        replayed = await other.ok("POST", f"{PATH}/current/replay", json={})
        assert replayed["same"]
    async with stage.db.read() as session:
        entries = (await session.scalars(select(RolloutEntryRow).order_by(RolloutEntryRow.seq))).all()
    assert [one.seq for one in entries] == list(range(1, len(entries) + 1))


async def test_people_may_move_a_rollout_at_another_registry_than_the_one_that_judges_it(
    platform: Platform, settings: Settings, stage: Stage, demo: Caller
) -> None:
    rollout = await stage.start(guard={"for_s": 600})
    await stage.report(*ready(1, 2), *ready(2, 2))

    async def held() -> bool:
        return bool(platform.registry.rollouts.watches)

    await eventually(held)
    async with platform_of(settings) as second:
        other = Caller(second.operator.http, demo.tenant, demo.key)
        async with stage.traffic(rollout) as router:
            await stage.until("baking")

            async def candidate_ready() -> bool:
                found = await other.ok("GET", "/v1/deployments/digits/status")
                return bool(found["ready"].get("2"))

            await eventually(candidate_ready)
            await other.ok("POST", f"{PATH}/current/pause")
            await other.ok("POST", f"{PATH}/current/promote")
            sent = router.seq

            async def judged() -> bool:
                found = await stage.rollout()
                return router.seq > sent + 5 and found["evidence"]["candidate_requests"] > 2000

            await eventually(judged)
        assert (await demo.ok("POST", f"{PATH}/current/replay", json={}))["same"]
        assert (await stage.kinds())[-2:] == ["paused", "promoted"]


async def test_a_lease_has_one_holder_and_a_number_that_grows(platform: Platform) -> None:
    db, now = platform.registry.db, 1000.0
    first, second = (Lease(db, lambda: now, name="test") for _ in range(2))
    assert await first.keep()
    assert not await second.keep()
    now += LEASE_S - 1
    assert await first.keep(), "renewed"
    now += LEASE_S - 1
    assert not await second.keep()
    now += 2
    assert await second.keep()
    assert second.fencing == 2
    with pytest.raises(LeaseLost):
        async with db.write() as session:
            await first.check(session)
    assert not await first.keep()
    await second.release()
    assert await first.keep()
    assert first.fencing == 3
    async with db.write() as session:
        await first.check(session)


async def test_a_holder_that_has_lost_its_lease_writes_none_of_what_it_judged(platform: Platform, stage: Stage) -> None:
    rollout = await stage.start()
    await stage.report(*ready(1, 2), *ready(2, 2))
    router = Router()
    await stage.send(rollout, router, (0, 0), (500, 0))
    await stage.until("baking")
    async with stage.db.write() as session:
        stolen = {"holder": "another", "fencing": ControllerLeaseRow.fencing + 1, "expires_at": 9e9}
        await session.execute(update(ControllerLeaseRow).values(stolen))
    seq = (await stage.rollout())["seq"]
    await stage.send(rollout, router, (100, 90), (400, 0))

    async def dropped() -> bool:
        return not platform.registry.rollouts.watches

    await eventually(dropped)
    now = await stage.rollout()
    assert (now["state"], now["seq"]) == ("baking", seq)
    async with stage.db.read() as session:
        verdicts = (await session.scalars(select(RolloutVerdictRow.kind))).all()
    assert "rolled_back" not in verdicts
    async with stage.db.write() as session:
        await session.execute(update(ControllerLeaseRow).values(expires_at=0.0))
    await stage.until("rolled_back")
