"""A registry on SQLite and on Postgres, with a real NATS."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr

from moorage_common import api_keys
from moorage_common.bus import Bus
from moorage_common.contracts.features import FeatureServiceInfo
from moorage_common.testing.servers import Server
from moorage_registry.rollouts.testing import Stage
from moorage_registry.settings import Settings
from moorage_registry.testing import Caller, Platform, platform_of


@pytest.fixture(params=["sqlite", "postgres"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/registry.db"
    server: str = request.getfixturevalue("postgres_url")
    name = f"registry_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(server.replace("+asyncpg", ""))
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    return f"{server.rsplit('/', 1)[0]}/{name}"


@pytest.fixture
def settings(database_url: str, nats_url: str, tmp_path: Path) -> Settings:
    return Settings(
        database_url=database_url,
        nats_url=nats_url,
        pepper=secrets.token_hex(16),
        artifact_dir=tmp_path / "artifacts",
        public_url="http://registry",
        max_artifact_bytes=1 << 20,
        bootstrap_admin_key=api_keys.mint().text,
    )


@pytest.fixture
async def platform(settings: Settings) -> AsyncIterator[Platform]:
    async with platform_of(settings) as running:
        yield running


@pytest.fixture
async def own_platform(settings: Settings, own_nats: Server) -> AsyncIterator[Platform]:
    """On a NATS of this test alone, to kill and restart."""
    async with platform_of(settings.model_copy(update={"nats_url": SecretStr(own_nats.url)})) as running:
        yield running


@pytest.fixture
async def own_bus(own_nats: Server) -> AsyncIterator[Bus]:
    connection = Bus(own_nats.url, "test")
    await connection.start()
    await connection.wait(10)
    yield connection
    await connection.close()


@pytest.fixture
async def demo(platform: Platform) -> Caller:
    return await platform.tenant()


@pytest.fixture
async def bus(settings: Settings) -> AsyncIterator[Bus]:
    connection = Bus(settings.nats_url.get_secret_value(), "test")
    await connection.start()
    await connection.wait(10)
    yield connection
    await connection.close()


@pytest.fixture
async def stage(platform: Platform, demo: Caller, bus: Bus) -> Stage:
    """Version 1 deployed with two replicas, version 2 pushed, and nothing rolled out yet."""
    built = Stage(platform.registry.db, bus, demo)
    await built.push(b"one", b"two")
    await built.deploy()
    return built


@pytest.fixture
async def feature_proxy() -> AsyncIterator[str]:
    """A server that knows the feature service `readings` and nothing else."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        known = head.startswith(b"GET /v1/features/services/readings ") and b"moorage-tenant: t" in head.lower()
        info = FeatureServiceInfo(
            name="readings",
            fingerprint="f1",
            entities=["sensor_id"],
            features=["sensor__mean", "sensor__max"],
            datatypes=["FP32", "FP32"],
        )
        body = info.model_dump_json().encode() if known else b"{}"
        status = b"200 OK" if known else b"404 Not Found"
        writer.write(b"HTTP/1.1 %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (status, len(body), body))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
