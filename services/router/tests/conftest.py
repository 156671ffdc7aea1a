"""A router on real NATS and Redis, before replica hosts of the test."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from moorage_common.testing.servers import Server
from moorage_router.settings import RouterSettings

sys.path.append(str(Path(__file__).parent))
from framed_host import FramedHost
from router_harness import PEPPER, Desired, FakeHost, RunningRouter, serving


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> RouterSettings:
    return RouterSettings(
        pepper=SecretStr(PEPPER), nats_url=SecretStr("nats://127.0.0.1:1"), redis_url=SecretStr(redis_url),
        state_dir=tmp_path / "state", park_s=10,
        router_name=f"router-{tmp_path.name[-20:]}",
    )  # fmt: skip


@pytest.fixture
async def desired(own_nats: Server, settings: RouterSettings) -> AsyncIterator[Desired]:
    """An empty bus of this test alone."""
    settings.nats_url = SecretStr(own_nats.url)
    tables = Desired(own_nats.url)
    await tables.start()
    yield tables
    await tables.close()


@pytest.fixture
async def host() -> AsyncIterator[FakeHost]:
    one = FakeHost("host-1")
    await one.start()
    yield one
    await one.kill()


@pytest.fixture
async def other_host() -> AsyncIterator[FakeHost]:
    two = FakeHost("host-2", token="token-2")
    await two.start()
    yield two
    await two.kill()


@pytest.fixture
async def framed() -> AsyncIterator[FramedHost]:
    one = FramedHost("host-1")
    await one.start()
    yield one
    await one.kill()


@pytest.fixture
async def other() -> AsyncIterator[FramedHost]:
    two = FramedHost("host-2", token="token-2")
    await two.start()
    yield two
    await two.kill()


@pytest.fixture
async def router(settings: RouterSettings, desired: Desired) -> AsyncIterator[RunningRouter]:
    async with serving(settings) as running:
        yield running
